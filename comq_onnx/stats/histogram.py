"""How often an activation takes which values: a histogram of bounded memory, filled batch by batch."""

import math
from dataclasses import dataclass

import numpy as np

BINS = 1 << 14
"""Most bins of one histogram. 8 bits have 256 codes, so that outliers may stretch the range by a lot."""
CHUNK = 1 << 16
"""Values looked at together: what they need for a moment stays in the cache."""
MANTISSA = 24
"""Bits of a float32: bins finer than its spacing at the largest value would stay empty."""
SAFE_EXPONENTS = range(-100, 1)
"""Exponents of widths that float32 values can be divided by with no overflow and no underflow."""


@dataclass(frozen=True)
class Cells:
    """A histogram as densities: evenly spread between neighbouring edges, and in a few points."""

    edges: np.ndarray
    """``(n + 1,)`` float64, increasing; the outermost are no further out than the values were"""
    density: np.ndarray
    """``(n,)``: values per unit of length"""
    points: np.ndarray
    """``(m,)``: where values are that have no spread, zero left out"""
    masses: np.ndarray
    """``(m,)``: how many there are in each point"""


class Histogram:
    """Counts of float32 values in bins whose width is a power of two.

    Bin i holds the values in ``[i w, (i + 1) w)``. The width w is the smallest power of two with which
    `bins` of them reach from the lowest value to the highest; where these move apart, neighbouring bins are
    joined, which is exact. So the histogram is a function of all the values, in whatever order and batches
    they come, and two histograms make the one of all their values. There are no sums, which rounding would
    make depend on the order; zeros are counted apart, because every grid holds zero exactly.

    Parameters
    ----------
    bins
        The most there may be, 2 or more.
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < 2:
            raise ValueError(f"{bins} bins cannot hold values of both signs")
        self.bins = bins
        self.count, self.zeros = 0, 0
        """Values seen, and those of them that are exactly zero."""
        self.low, self.high = math.inf, -math.inf
        """Lowest and highest value, exact; infinite while there is none."""
        self.exponent = 0
        """The width is two to this power."""
        self.first = 0
        """Index of the first bin"""
        self.counts = np.zeros(0, np.int64)
        """From the first bin to the last, zeros left out"""

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    def add(self, values: np.ndarray) -> None:
        """Count the values of an array of any shape, float16 and bfloat16 too; float64 is rounded to float32.

        ValueError, and nothing counted, where one of them is not finite.
        """
        if not values.size:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            flat = values.reshape(-1).astype(np.float32, copy=False)
            low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("a histogram counts finite values only")
        self._reach(low, high)
        zeros = len(flat) - int(np.count_nonzero(flat))
        self.count, self.zeros = self.count + len(flat), self.zeros + zeros
        if self.low == self.high == 0:
            return
        kind = np.float32 if self.exponent in SAFE_EXPONENTS else np.float64
        scale = kind(math.ldexp(1.0, -self.exponent))
        for start in range(0, len(flat), CHUNK):
            index = np.floor(flat[start : start + CHUNK].astype(kind, copy=False) * scale).astype(np.intp)
            index -= self.first
            self.counts += np.bincount(index, minlength=len(self.counts))
        if zeros:
            self.counts[-self.first] -= zeros

    def merge(self, other: "Histogram") -> None:
        """Count all values of `other`, which has as many bins at most, too."""
        if other.bins != self.bins:
            raise ValueError(f"{other.bins} bins do not merge into {self.bins}")
        if not other.count:
            return
        self._reach(other.low, other.high)
        self.count, self.zeros = self.count + other.count, self.zeros + other.zeros
        if len(other.counts):
            counts, first = joined(other.counts, other.first, self.exponent - other.exponent)
            self.counts[first - self.first : first - self.first + len(counts)] += counts

    def cells(self) -> Cells:
        """Where the values are, as well as it is known."""
        edges = np.ldexp(np.arange(self.first, self.first + len(self.counts) + 1.0), self.exponent)
        edges = np.clip(edges, self.low, self.high)
        widths = np.diff(edges)
        # All values at the highest, as behind a Clip, may make a bin of no width.
        spread = widths > self.width / (1 << 10)
        density = np.divide(self.counts, widths, out=np.zeros(len(widths)), where=spread)
        alone = ~spread & (self.counts > 0)
        return Cells(edges, density, (edges[:-1] + edges[1:])[alone] / 2, self.counts[alone].astype(float))

    def _reach(self, low: float, high: float) -> None:
        """Let the bins reach from `low` to `high` too."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.low == self.high == 0:
            return
        exponent = width_exponent(self.low, self.high, self.bins)
        first, last = (math.floor(math.ldexp(end, -exponent)) for end in (self.low, self.high))
        counts = np.zeros(last - first + 1, np.int64)
        if len(self.counts):
            old, begin = joined(self.counts, self.first, exponent - self.exponent)
            counts[begin - first : begin - first + len(old)] = old
        self.counts, self.first, self.exponent = counts, first, exponent


def width_exponent(low: float, high: float, bins: int) -> int:
    """The smallest e for which `bins` bins of width ``2^e`` reach from `low` to `high`; not both are 0.

    Not smaller than what a float32 as large as the largest of them can tell apart. It does not fall where the
    range grows.
    """
    exponent = math.frexp(max(abs(low), abs(high)))[1] - MANTISSA
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= bins:
        exponent += 1
    return exponent


def joined(counts: np.ndarray, first: int, doublings: int) -> tuple[np.ndarray, int]:
    """The counts, and the index of the first, where bins are ``2^doublings`` times as wide."""
    if doublings == 0:
        return counts, first
    index = (np.arange(len(counts)) + first) >> doublings
    wide = np.zeros(int(index[-1] - index[0]) + 1, np.int64)
    np.add.at(wide, index - index[0], counts)
    return wide, int(index[0])
