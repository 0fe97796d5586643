"""Calibration data put in order so that its two halves are unlike each other.

What was solved on one half is judged on the other. Crops of the same few photographs, sentences of the same
few documents, frames of the same film stand in both halves where these are taken as they come, and the judge
sees nothing new: what fits these photographs then passes for what fits any.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from comq_onnx.run.data import Batch, Calibration

BINS = 1024
"""Numbers that describe a sample"""


def sided(calibration: Calibration, run: Callable[[Batch], Batch]) -> Calibration:
    """The same samples, one half before the other; as they are where nothing tells them apart.

    A sample is described by its outputs, `run` of its inputs; the halves are the samples below
    and above the median along the descriptions' first principal axis. Batches that cannot be cut stay whole.
    """
    counts, found = [], []
    for batch in calibration.batches():
        counts.append(calibration.entries(batch))
        found.append(described(run(batch), counts[-1]))
    if len({rows.shape[1] for rows in found}) != 1 or sum(counts) < 4 or not found[0].shape[1]:
        return calibration
    if calibration.cut is None:
        found = [rows.mean(axis=0, keepdims=True) for rows in found]
    side = sides(np.concatenate(found))
    if calibration.cut is None:
        side = np.repeat(side, counts)

    def make() -> Iterator[Batch]:
        for wanted in (False, True):
            place = 0
            for batch, count in zip(calibration.batches(), counts, strict=True):
                mine = side[place : place + count] == wanted
                place += count
                if mine.all():
                    yield batch
                elif mine.any() and calibration.cut:
                    yield calibration.cut(batch, mine)

    return replace(calibration, make=make, batch_count=sum(1 for _ in make()))


def sides(descriptions: np.ndarray) -> np.ndarray:
    """Which of the samples ``(samples, numbers)`` are in the second half; of odd ones the first has more."""
    away = descriptions - descriptions.mean(axis=0)
    # Of samples x samples: there are fewer samples than numbers.
    _, axes = np.linalg.eigh(away @ away.T)
    along = axes[:, -1]
    # An eigenvector's sign is the library's choice: the sample that lies farthest out is in the first half.
    along = along * -np.sign(along[np.argmax(np.abs(along))])
    second = np.ones(len(along), dtype=bool)
    second[np.argsort(along, kind="stable")[: -(-len(along) // 2)]] = False
    return second


def described(outputs: Batch, entries: int) -> np.ndarray:
    """Floating outputs of a batch as ``(entries, BINS x outputs)``: means of so many stretches of each.

    An output without an entry for each sample is left out.
    """
    parts = []
    for values in outputs.values():
        if not np.issubdtype(values.dtype, np.floating) or not values.size:
            continue
        if entries != 1 and (not values.ndim or len(values) != entries):
            continue
        rows = values.reshape(entries, -1).astype(np.float64)
        rows[~np.isfinite(rows)] = 0.0
        length = rows.shape[1]
        starts = np.arange(BINS) * length // BINS
        if length <= BINS:
            parts.append(rows[:, starts])
        else:
            parts.append(np.add.reduceat(rows, starts, axis=1) / np.diff(starts, append=length))
    return np.concatenate(parts, axis=1) if parts else np.zeros((entries, 0))
