"""Statistics of all samples from those of two halves, and of the second half from the other two."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from comq_onnx.records import Drift, InputStats


def merged(first: InputStats | None, second: InputStats | None) -> InputStats | None:
    """The statistics of all rows from those of two halves of the samples; the first stays beside them."""
    if first is None or second is None:
        return first or second
    count = first.count + second.count
    share, rest = first.count / count, second.count / count
    mean, gram = _mixed(share, first.mean, rest, second.mean), _mixed(share, first.gram, rest, second.gram)
    drift = _mixed_drift(share, first.drift, rest, second.drift)
    for array in (mean, gram):
        array.flags.writeable = False
    return InputStats(mean, gram, count, first, drift)


def of_shards(shards: Sequence[InputStats | None]) -> InputStats | None:
    """The statistics of all samples from those of an even number of shards of them, added in this order.

    The first half of the shards is that of the samples.
    """
    middle = len(shards) // 2
    return merged(reduce(_added, shards[:middle]), reduce(_added, shards[middle:]))


def _added(first: InputStats | None, second: InputStats | None) -> InputStats | None:
    total = merged(first, second)
    return total and replace(total, half=None)


def halves(stats: InputStats, xp: Any = np) -> tuple[InputStats, InputStats]:
    """Statistics of the first half of the samples and, by subtraction, of the second, as arrays of `xp`."""
    first = stats.half
    if first is None:
        raise ValueError("no half of the samples was summed apart")
    count = stats.count - first.count
    whole, part = stats.count / count, first.count / count
    mean = _mixed(whole, xp.asarray(stats.mean), -part, xp.asarray(first.mean))
    gram = _mixed(whole, xp.asarray(stats.gram), -part, xp.asarray(first.gram))
    return first, InputStats(mean, gram, count, None, _mixed_drift(whole, stats.drift, -part, first.drift))


def of_groups(stats: InputStats, some: np.ndarray) -> InputStats:
    """The statistics of some groups, halves and all; all of them where that is all."""
    if len(some) == len(stats.mean):
        return stats
    half = None if stats.half is None else of_groups(stats.half, some)
    return InputStats(stats.mean[some], stats.gram[some], stats.count, half)


def _mixed_drift(share: float, first: Drift | None, rest: float, second: Drift | None) -> Drift | None:
    if first is None or second is None:
        return None
    mean, cross = None, None
    if first.residual_mean is not None and second.residual_mean is not None:
        mean = _mixed(share, first.residual_mean, rest, second.residual_mean)
    if first.residual_cross is not None and second.residual_cross is not None:
        cross = _mixed(share, first.residual_cross, rest, second.residual_cross)
    return Drift(
        _mixed(share, first.mean, rest, second.mean),
        _mixed(share, first.cross, rest, second.cross),
        share * first.energy + rest * second.energy,
        mean,
        cross,
    )


def _mixed(share: float, first: Any, rest: float, second: Any) -> Any:
    total = share * first
    total += rest * second
    return total
