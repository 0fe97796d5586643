"""The range that keeps most of a distribution's information: the least Kullback-Leibler divergence.

Migacz, "8-bit Inference with TensorRT", GTC 2017.
"""

import numpy as np

from comq_onnx.records import ActivationKind
from comq_onnx.stats.histogram import Histogram, joined

LINEAR = 2048
"""Most bins that the divergence is taken over"""
STRIDE = 8
"""Bins from one range that is tried to the next"""
CODES = 256


def entropy_ends(histogram: Histogram, kind: ActivationKind) -> tuple[float, float]:
    """Lower and upper end of the range with the least divergence.

    P are the counts inside a range, with those outside added to the outermost bins, and Q the counts inside,
    spread evenly over the non-empty bins of each code. Zeros are left out: every range holds them exactly.
    A symmetric signed kind has 128 codes for the magnitudes. Otherwise there are 256 codes from end to end;
    the upper end is chosen first, then the lower, then the upper again.
    """
    counts, first, width = _linear(histogram)
    if kind.symmetric or first >= 0:
        if kind.signed and kind.symmetric:
            counts, levels = _folded(counts, first), CODES // 2
        else:
            counts, levels = counts[-first:], CODES
        end = best_end(counts, levels) * width
        return (-end if kind.signed and kind.symmetric else 0.0), end
    zero = -first
    if zero == len(counts):
        return -best_end(counts[::-1], CODES) * width, 0.0
    lower, upper = 0, len(counts)
    for _ in range(2):
        upper = best_end(counts, CODES, zero, lower)
        # The same from the other side.
        mirrored = best_end(counts[::-1], CODES, len(counts) - zero, len(counts) - upper)
        lower = len(counts) - mirrored
    return (lower - zero) * width, (best_end(counts, CODES, zero, lower) - zero) * width


def best_end(counts: np.ndarray, levels: int, least: int = 0, start: int = 0) -> int:
    """The end of the range ``[start, end)`` of bins with the least divergence, the longest of several.

    It is more than `least`, and there is a bin for each of the levels at least; otherwise it is the last bin.
    """
    size = len(counts)
    ends = range(size, max(least, start + levels - 1), -STRIDE)
    return min(ends, key=lambda end: divergence(counts, start, end, levels), default=size)


def divergence(counts: np.ndarray, start: int, end: int, levels: int) -> float:
    """KL(P || Q) in nats of the range ``[start, end)``; infinite where there is nothing in it.

    An outermost bin that is empty but for what is added to P counts as one value of Q: the divergence would
    be infinite wherever a single outlier is cut off.
    ``(end - start)`` bins are dealt out to the levels: bin j to level ``floor(j * levels / (end - start))``.
    """
    inside = counts[start:end].astype(np.float64)
    total = inside.sum()
    if not total:
        return np.inf
    outer = inside.copy()
    outer[0] += counts[:start].sum()
    outer[-1] += counts[end:].sum()
    size = end - start
    # The first bin of each level; there are no fewer bins than levels.
    starts = -(-np.arange(levels) * size // levels)
    filled = inside > 0
    masses = np.add.reduceat(inside, starts)
    shares = masses / np.maximum(np.add.reduceat(filled.astype(np.float64), starts), 1)
    spread = np.where(filled, np.repeat(shares, np.diff(starts, append=size)), 1)
    there = outer > 0
    p, q = outer[there] / outer.sum(), spread[there] / total
    return float((p * np.log(p / q)).sum())


def _linear(histogram: Histogram) -> tuple[np.ndarray, int, float]:
    """At most `LINEAR` counts from zero or below to zero or above, the index of the first, and the width."""
    begin, end = min(histogram.first, 0), max(histogram.first + len(histogram.counts), 0)
    doublings = 0
    while ((end - 1) >> doublings) - (begin >> doublings) >= LINEAR:
        doublings += 1
    counts, first = joined(histogram.counts, histogram.first, doublings)
    before = first - min(first, 0)
    behind = max(-(first + len(counts)), 0)
    return (
        np.pad(counts, (before, behind)),
        min(first, 0),
        float(np.ldexp(1.0, histogram.exponent + doublings)),
    )


def _folded(counts: np.ndarray, first: int) -> np.ndarray:
    """Counts of magnitudes: bin -1 - i is added to bin i."""
    positive, negative = counts[-first:], counts[:-first][::-1] if first else counts[:0]
    folded = np.zeros(max(len(positive), len(negative)), np.int64)
    folded[: len(positive)] += positive
    folded[: len(negative)] += negative
    return folded
