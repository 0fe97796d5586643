"""The sums of one tap over all batches, on the CPU or on a GPU, apart for each shard of the samples."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np

from comq_onnx.backends.engine import single_threaded_blas
from comq_onnx.backends.protocol import Array
from comq_onnx.moments import of_shards
from comq_onnx.records import Drift, InputStats
from comq_onnx.stats.cross import CrossSum, cross_bytes_needed
from comq_onnx.stats.device_gram import DeviceGramSum, device_bytes_needed
from comq_onnx.stats.gram import GramSum, bytes_needed
from comq_onnx.stats.mask import keep_rows
from comq_onnx.stats.taps import Sampling, Tap, check_finite, outputs_of, rows_of

HALVES = 2
"""The samples are summed in two halves at least, so that one can judge what was solved on the other."""


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
    floats: Mapping[str, Array] | None = None
    """Where `values` are the quantized network's: the float network's."""
    gap: Array | None = None
    """What the float network has more of the tensor that the layers' outputs are added to."""


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
        self.shards = tuple(ShardSum(tap, sampling, xp, number) for number in range(sampling.shards))

    @property
    def count(self) -> int:
        """Rows seen, per group."""
        return sum(shard.count for shard in self.shards)

    def add(self, taken: Taken) -> None:
        """Add the rows of one batch. ComqError where an activation is not finite or does not fit."""
        for shard in self.shards:
            shard.add(taken)

    def stats(self) -> InputStats | None:
        """The statistics of all samples, on the host; None where no row was seen. Nothing may follow."""
        return of_shards([shard.stats() for shard in self.shards])


class ShardSum:
    """The sums over the samples of one shard; of a batch that holds samples of others, its part is added."""

    def __init__(self, tap: Tap, sampling: Sampling, xp: Any, number: int) -> None:
        self.tap = tap
        self._sampling, self._xp = sampling, xp
        self._first, self._end = sampling.shard(number)
        self._gram: GramSum | DeviceGramSum | None = None
        self._cross: CrossSum | None = None
        self._residual: CrossSum | None = None

    @property
    def count(self) -> int:
        """Rows seen, per group."""
        return self._gram.count if self._gram else 0

    def meets(self, first: int, entries: int) -> bool:
        """Whether a batch of `entries` samples, the first of which has this number, may have a part here."""
        return first < self._end and first + entries > self._first

    def add(self, taken: Taken) -> None:
        """Add this shard's rows of a batch. ComqError where an activation is not finite or does not fit."""
        tap, name = self.tap, self.tap.tensor
        values, floats = taken.values[name], taken.floats and taken.floats[name]
        part, first = self._part(values, taken)
        if part is None:
            return
        mask = None if taken.mask is None else taken.mask[part]
        place = (first, min(taken.entries, len(range(*part.indices(taken.entries)))))
        values = self._kept(values, part, mask)
        if name in taken.doubtful:
            check_finite(name, values, place, self._xp)
        gram = self._gram or self._start(values.dtype, floats is not None)
        if not values.size:
            return
        found = rows_of(tap, values, self._sampling, first, self._xp)
        if floats is None or self._cross is None:
            for rows in found:
                gram.add(rows)
            return
        wanted = rows_of(tap, self._kept(floats, part, mask), self._sampling, first, self._xp)
        beside = repeat(None)
        if self._residual:
            gap = self._kept(taken.gap, part, mask)
            beside = outputs_of(tap, gap, self._sampling, first, self._xp)
        for rows, there, gap in zip(found, wanted, beside, strict=False):
            with np.errstate(invalid="ignore", over="ignore"):
                gaps = there - rows
            # Not finite where one of the two is not. Only the positions that are summed are looked at.
            check_finite(name, gaps, place, self._xp, paired=True)
            gram.add(rows)
            self._cross.add(rows, gaps)
            if self._residual and gap is not None:
                self._residual.add(rows, gap)

    def stats(self) -> InputStats | None:
        """The statistics of this shard, on the host; None where no row was seen. Nothing may follow."""
        gram, cross, residual = self._gram, self._cross, self._residual
        self._gram = self._cross = self._residual = None
        # The rows that are left are multiplied now, and as all others were: on one thread, or bits differ.
        with single_threaded_blas():
            stats = gram.stats() if gram else None
            if not stats or not cross:
                return stats
            mean, moment, gap = cross.moments()
            beside = residual.moments()[:2] if residual else ()
        # E||x||^2 = E||x'||^2 + 2 E[(x - x')^T x'] + E||x - x'||^2
        diagonals = np.einsum("gkk->", stats.gram) + 2 * np.einsum("gkk->", moment)
        total = float(diagonals) + gap
        return replace(stats, drift=Drift(mean, moment, gap / total if total > 0 else 0.0, *beside))

    def _part(self, values: Array, taken: Taken) -> tuple[slice | None, int]:
        """Which entries of a batch belong to this shard, and the number of the first; None for no entry.

        A batch that cannot be cut goes to the shard of its first sample.
        """
        first, entries = taken.first, taken.entries
        start, end = max(self._first - first, 0), min(self._end - first, entries)
        # The axis that is summed over is none of samples.
        summed = {"dense": 1, "left": 2}.get(self.tap.kind, 0)
        if self.tap.batch or values.ndim <= summed or len(values) != entries:
            return (slice(None) if self._first <= first < self._end else None), first
        if start >= end:
            return None, first
        return (slice(start, end) if (start, end) != (0, entries) else slice(None)), first + start

    def _kept(self, values: Array, part: slice, mask: np.ndarray | None) -> Array:
        """The part, without padding."""
        values = values if part == slice(None) else values[part]
        if mask is None or self.tap.kind != "dense" or self.tap.batch:
            return values
        return keep_rows(values, mask, self._xp)

    def _start(self, dtype: np.dtype, drifting: bool) -> GramSum | DeviceGramSum:
        """Make the sums, now that the type of the rows is known; the Gram's is returned."""
        groups, rows, xp = self.tap.groups, self.tap.rows, self._xp
        gram = GramSum(groups, rows, dtype) if xp is np else DeviceGramSum(groups, rows, xp, dtype)
        self._gram = gram
        if drifting:
            self._cross = CrossSum(groups, rows, rows, xp, dtype)
            wide = self.tap.residual
            self._residual = CrossSum(groups, rows, self.tap.cols, xp, dtype) if wide else None
        return gram


def sum_bytes(tap: Tap, xp: Any, drifting: bool = False, shards: int = HALVES) -> int:
    """Memory of the sums of a tap, where its activations are."""
    needed = bytes_needed if xp is np else device_bytes_needed
    cross = 0
    if drifting:
        cross = cross_bytes_needed(tap.groups, tap.rows, tap.rows)
        cross += cross_bytes_needed(tap.groups, tap.rows, tap.cols) if tap.residual else 0
    return shards * (needed(tap.groups, tap.rows) + cross)


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
