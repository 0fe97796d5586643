"""Means over samples, position by position, of what a layer sees in both networks of a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from comq_onnx.run.stream import FLOAT, QUANTIZED, Stream
from comq_onnx.stats.tap_sum import HALVES


@dataclass(frozen=True)
class PositionMeans:
    """Means over the samples of each half, ``(2, *sample)`` float64."""

    quantized: np.ndarray
    """Of x', what the quantized network makes"""
    gap: np.ndarray
    """Of ``x - x'``; x is what the float network makes"""
    sizes: tuple[int, int]
    """Samples in each half"""


def position_means(stream: Stream, name: str) -> PositionMeans | str:
    """The means of a tensor that is live in `stream`, or why there are none, as a clause.

    The first axis counts as that of samples where its size is the batch's in every batch.
    """
    shape = stream.shape(name)
    if sum(stream.entries) < HALVES:
        return "there is one sample only"
    sample = tuple(size for size in (shape or ())[1:] if size is not None)
    if not shape or len(sample) < len(shape) - 1:
        return "shapes differ among samples"
    sums = np.zeros((2, HALVES, *sample))
    sizes = [0] * HALVES
    for batch, half, part in halves_of(stream):
        value = stream.value(name, batch, QUANTIZED)
        if value.shape[1:] != sample:
            return "shapes differ among samples"
        if len(value) != stream.entries[batch]:
            return "the first axis of its input is not that of the samples"
        x = value[part].astype(np.float64)
        sums[0, half] += x.sum(axis=0)
        if not stream.agrees(name):
            sums[1, half] += (stream.value(name, batch, FLOAT)[part] - x).sum(axis=0)
        sizes[half] += len(x)
    sums /= np.reshape(sizes, (HALVES,) + (1,) * (sums.ndim - 2))
    return PositionMeans(sums[0], sums[1], (sizes[0], sizes[1]))


def halves_of(stream: Stream) -> Iterator[tuple[int, int, slice]]:
    """Batch, half and the entries of the batch that belong to it."""
    middle = -(-sum(stream.entries) // HALVES)
    for batch, (end, entries) in enumerate(zip(accumulate(stream.entries), stream.entries, strict=True)):
        cut = min(max(middle - (end - entries), 0), entries)
        if cut:
            yield batch, 0, slice(cut)
        if cut < entries:
            yield batch, 1, slice(cut, None)
