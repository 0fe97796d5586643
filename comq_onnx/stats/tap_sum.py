"""The sums of one tap over all batches, on the CPU or on a GPU, apart for the two halves of the samples."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from comq_onnx.backends.protocol import Array
from comq_onnx.records import InputStats
from comq_onnx.stats.device_gram import DeviceGramSum, device_bytes_needed
from comq_onnx.stats.gram import GramSum, bytes_needed, merged
from comq_onnx.stats.mask import keep_rows
from comq_onnx.stats.taps import Sampling, Tap, check_finite, rows_of

HALVES = 2
"""The samples are summed in two halves, so that one can judge what was solved on the other."""


@dataclass(frozen=True)
class Taken:
    """What one batch gives to the taps."""

    values: Mapping[str, Array]
    """Tapped tensors by name."""
    doubtful: Collection[str]
    """Those that may hold NaN or infinity, see `doubtful_of`."""
    mask: np.ndarray | None
    """``(batch, sequence)``, true where a token counts; on the host."""
    first: int
    """Number of the first sample."""
    entries: int
    """How many samples there are."""


class TapSum:
    """The running sums of one tap. Those of different taps share nothing, so that threads may add to them.

    Parameters
    ----------
    tap, sampling
        What is read, and where convolutions are looked at.
    xp
        The array library that holds activations and sums.
    """

    def __init__(self, tap: Tap, sampling: Sampling, xp: Any) -> None:
        self.tap = tap
        self._sampling, self._xp = sampling, xp
        self._halves: list[GramSum | DeviceGramSum] = []

    @property
    def count(self) -> int:
        """Rows seen, per group."""
        return sum(half.count for half in self._halves)

    def add(self, taken: Taken) -> None:
        """Add the rows of one batch. ComqError where an activation is not finite or does not fit."""
        name = self.tap.tensor
        self._add(taken.values[name], taken.mask, (taken.first, taken.entries), name in taken.doubtful)

    def stats(self) -> InputStats | None:
        """The statistics of all samples, on the host; None where no row was seen. Nothing may follow."""
        halves, self._halves = self._halves, []
        return merged(*(half.stats() for half in halves)) if halves else None

    def _add(
        self, activation: Array, mask: np.ndarray | None, place: tuple[int, int], doubtful: bool
    ) -> None:
        """Add the rows of one batch; `place` is the number of its first sample and how many it has.

        A batch that holds samples of both halves is cut in two, so that halves do not depend on its size.
        """
        tap, sampling, (first, entries) = self.tap, self._sampling, place
        cut = -(-sampling.samples // HALVES) - first
        if 0 < cut < entries and not tap.batch and activation.ndim and len(activation) == entries:
            parts = (slice(cut), (first, cut)), (slice(cut, None), (first + cut, entries - cut))
            for part, there in parts:
                self._add(activation[part], None if mask is None else mask[part], there, doubtful)
            return
        if mask is not None and tap.kind == "dense" and not tap.batch:
            activation = keep_rows(activation, mask, self._xp)
        if doubtful:
            check_finite(tap.tensor, activation, place, self._xp)
        if not self._halves:
            self._halves = [self._new(activation.dtype) for _ in range(HALVES)]
        if activation.size:
            half = self._halves[int(HALVES * first >= sampling.samples)]
            for rows in rows_of(tap, activation, sampling, first, self._xp):
                half.add(rows)

    def _new(self, dtype: np.dtype) -> GramSum | DeviceGramSum:
        tap, xp = self.tap, self._xp
        if xp is np:
            return GramSum(tap.groups, tap.rows, dtype)
        return DeviceGramSum(tap.groups, tap.rows, xp, dtype)


def sum_bytes(tap: Tap, xp: Any) -> int:
    """Memory of the sums of a tap, where its activations are."""
    needed = bytes_needed if xp is np else device_bytes_needed
    return HALVES * needed(tap.groups, tap.rows)


def doubtful_of(values: Mapping[str, Array], xp: Any) -> frozenset[str]:
    """Tensors that have to be looked at for NaN and infinity.

    On the CPU all of them, one by one. To wait for a GPU at each would leave it idle, so there their sums are
    fetched together: where one is finite, so are its terms.
    """
    # A float64 sum of float64 values overflows, one of float32 values does not.
    summed = [name for name, value in values.items() if xp is not np and value.dtype != np.float64]
    if not summed:
        return frozenset(values)
    totals = xp.stack([values[name].sum(dtype=np.float64) for name in summed])
    fine = zip(summed, xp.isfinite(totals).tolist(), strict=True)
    return frozenset(values) - {name for name, finite in fine if finite}
