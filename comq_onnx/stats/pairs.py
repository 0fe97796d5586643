"""What layers see in the quantized network, and how the float network's inputs differ, from a stream."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.records import InputStats, Layer
from comq_onnx.run.stream import FLOAT, QUANTIZED, Stream
from comq_onnx.stats.tap_sum import HalfSum, Taken, TapSum, sum_bytes
from comq_onnx.stats.taps import Sampling, Tap, taps_of


def collect_pairs(
    stream: Stream,
    layers: Sequence[Layer],
    sampling: Sampling,
    mask: Sequence[np.ndarray],
    how: tuple[Engine, int],
) -> dict[str, InputStats | None]:
    """Statistics by layer; `layers` have their inputs live in `stream`.

    `mask` holds the mask of each batch, or nothing. `how` is what sums, and the bytes that sums may take:
    where they need more, the tensors are gone through more than once.
    """
    engine, limit = how
    found: dict[str, InputStats | None] = {}
    for group in _groups(taps_of(layers), engine.backend.xp, limit):
        sums = [TapSum(tap, sampling, engine.backend.xp) for tap in group]
        # The two halves of the samples share nothing, and neither do taps.
        work = [half for tap_sum in sums for half in tap_sum.halves]
        with single_threaded_blas():
            list(engine.map(lambda half: _fill(half, stream, mask, engine), work))
        for tap_sum in sums:
            found |= dict.fromkeys(tap_sum.tap.layers, tap_sum.stats())
    return found


def _fill(half: HalfSum, stream: Stream, mask: Sequence[np.ndarray], engine: Engine) -> None:
    """Add all batches that have samples of this half, in order."""
    name, xp = half.tap.tensor, engine.backend.xp
    for batch, (end, entries) in enumerate(zip(accumulate(stream.entries), stream.entries, strict=True)):
        if not half.meets(end - entries, entries):
            continue
        value = stream.value(name, batch, QUANTIZED)
        floats = None
        if not stream.agrees(name):
            floats = {name: xp.asarray(stream.value(name, batch, FLOAT))}
        here = mask[batch] if mask else None
        doubtful = () if floats else (name,)
        half.add(Taken({name: xp.asarray(value)}, doubtful, here, end - entries, entries, floats))


def _groups(taps: Sequence[Tap], xp: object, limit: int) -> list[list[Tap]]:
    """Taps whose sums fit in memory together, in order."""
    groups: list[list[Tap]] = []
    held = limit + 1
    for tap in taps:
        need = sum_bytes(tap, xp, drifting=True)
        if held + need > limit:
            groups.append([])
            held = 0
        groups[-1].append(tap)
        held += need
    return groups
