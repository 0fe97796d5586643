"""Scales for the channels of an activation that is rounded with one scale for all of them.

A channel that is larger than the others takes the codes from them. Divided by a vector of scales, and the
rows of the weights that read it multiplied by the same, an activation is easier to round and the weights are
harder (SmoothQuant, arXiv 2211.10438). How far to go is measured here, instead of being given: by the error
that both roundings make at the output of the weights' products.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from comq_onnx.backends.engine import single_threaded_blas
from comq_onnx.grid import Grid
from comq_onnx.records import ActivationKind
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.output_error import rounded
from comq_onnx.stats.ranges import Pattern, grid_between, search, squared_error, whole_range

POWERS = (0.5, 0.75, 1.0)
"""Of the channels' reach that are tried: 1 lets all of them reach as far"""
ORDERS = (2, 4, 8)
"""Of the mean powers that are tried as a channel's reach: a Gelu lets few values stand out by far. Not the
largest value: of few samples, values of others lie beyond it"""
TRIES = 2 * len(POWERS) * len(ORDERS)
WHOLE = Pattern((1.0,), 0, (), 0)
QUICK = Pattern(tuple(2.0 ** -np.arange(0, 2.5, 0.25)), 0, (), 0)
SMALLEST = 2.0**-8
"""Part of the largest channel's range below which a channel counts as that large: a step of the codes"""
WORK = 1 << 27
"""Multiplications for one vector of scales, beyond which fewer rows are looked at"""
ROWS_AT_LEAST = 64
"""That are looked at"""


@dataclass(frozen=True)
class Reader:
    """A weight that multiplies the activation."""

    weight: np.ndarray
    """``(rows, cols)`` float32"""
    grid: Grid
    """That its codes will be on"""


@dataclass(frozen=True)
class Smoothing:
    """Scales of an activation's channels, and squared errors of its readers' outputs with and without them.

    Errors are relative to the squared outputs, of all readers together.
    """

    scale: np.ndarray
    """``(rows,)`` float64, positive, with a geometric mean of 1"""
    before: float
    after: float


def choose_scales(
    rows: np.ndarray, readers: Sequence[Reader], kind: ActivationKind, share: float = 1.0, clip: bool = True
) -> Smoothing | None:
    """The scales of the least error; None where none are better than to leave the activation as it is.

    How they are made of the rows is judged by halves: scales of the first half, and the error on the second.

    None too for less than `ROWS_AT_LEAST` rows, of which no channel's reach can be told.

    Parameters
    ----------
    rows
        ``(n, rows)`` float32: vectors that the weights multiply.
    readers
        The weights.
    kind
        Which codes the activation is stored in.
    share
        What part of rounding's expected error the solved weights will make.
    clip
        Whether the activation's range is chosen by its squared error; from its lowest value to its highest
        otherwise.
    """
    if len(rows) < ROWS_AT_LEAST or not np.any(rows):
        return None
    middle = len(rows) // 2
    with single_threaded_blas():
        pattern = QUICK if clip else WHOLE
        problem = _Problem((rows, rows[middle:]), readers, (kind, share, pattern))
        before = problem.error(np.ones(rows.shape[1], np.float32))
        errors = [problem.error(scale) for scale in _candidates(rows[:middle], readers)]
    after = min(errors)
    if after >= before:
        return None
    scale = list(_candidates(rows, readers))[errors.index(after)]
    return Smoothing(scale.astype(np.float64), before, after)


def _candidates(rows: np.ndarray, readers: Sequence[Reader]) -> Iterator[np.ndarray]:
    """``reach^p``, and ``reach^p / largest weight^(1 - p)``, for each power p and each reach."""
    weight = np.log(_floored(np.max([np.abs(reader.weight).max(axis=1) for reader in readers], axis=0)))
    sizes = np.abs(rows, dtype=np.float64)
    largest = float(sizes.max()) or 1.0
    for order in ORDERS:
        reach = np.mean((sizes / largest) ** order, axis=0) ** (1 / order)
        for power in POWERS:
            for part in (0.0, 1 - power)[: 1 + (power < 1)]:
                exponent = power * np.log(_floored(reach)) - part * weight
                yield np.exp(exponent - exponent.mean()).astype(np.float32)


def _floored(sizes: np.ndarray) -> np.ndarray:
    largest = float(sizes.max(initial=0.0))
    return np.maximum(sizes, largest * SMALLEST if largest > 0 else 1.0).astype(np.float64)


class _Problem:
    """The error of both roundings for a vector of scales, on some rows; the range is that of all."""

    def __init__(
        self,
        seen: tuple[np.ndarray, np.ndarray],
        readers: Sequence[Reader],
        how: tuple[ActivationKind, float, Pattern],
    ) -> None:
        self._kind, self._share, self._pattern = how
        self._all, rows = seen
        size, cols = rows.shape[1], sum(reader.weight.shape[1] for reader in readers)
        most = max(ROWS_AT_LEAST, WORK // (size * min(size, cols)))
        self._rows = np.ascontiguousarray(rows[:: -(-len(rows) // most)], np.float32)
        # The square of what a row comes to is the same in both forms; the smaller product is the cheaper one.
        self._signals = [float(np.square(self._rows @ reader.weight).sum()) or 1.0 for reader in readers]
        scaled = zip(readers, self._signals, strict=True)
        weight = np.concatenate([reader.weight / np.float32(np.sqrt(signal)) for reader, signal in scaled], 1)
        self._wide = cols > size and TRIES * len(self._rows) * (cols - size) > size * cols
        self._weight = weight @ weight.T if self._wide else weight
        self._squares, self._readers = np.square(self._rows).sum(axis=0, dtype=np.float64), readers

    def error(self, scale: np.ndarray) -> float:
        """Of all readers together, each relative to its own output."""
        return self._of_activation(scale) + self._share * self._of_weights(scale)

    def _of_activation(self, scale: np.ndarray) -> float:
        histogram = Histogram()
        histogram.add(self._all / scale)
        cells = histogram.cells()
        grid = search(
            lambda grid: squared_error(cells, grid),
            [whole_range(histogram)],
            lambda ends: grid_between(ends, self._kind),
            self._pattern,
        )
        smooth = self._rows / scale
        off = rounded(smooth, grid)
        off -= smooth
        off *= scale
        out = off @ self._weight
        out *= off if self._wide else out
        return float(out.sum(dtype=np.float64))

    def _of_weights(self, scale: np.ndarray) -> float:
        """Expected, of rounding errors that are evenly spread and have nothing to do with each other."""
        power = self._squares / np.square(scale, dtype=np.float64)
        total = 0.0
        for reader, signal in zip(self._readers, self._signals, strict=True):
            steps = _steps(reader.weight * scale[:, None], reader.grid)
            total += float(power @ np.square(steps, dtype=np.float64).sum(axis=1)) / 12 / signal
        return total


def _steps(weight: np.ndarray, grid: Grid) -> np.ndarray:
    """``(rows, cols)``: how far apart the grid's points are at each weight."""
    rows = len(weight)
    block = grid.rows_per_block(rows)
    starts = np.arange(0, rows, block)
    low = np.minimum(np.minimum.reduceat(weight, starts), 0)
    high = np.maximum(np.maximum.reduceat(weight, starts), 0)
    step = np.maximum(-low, high) / grid.hi if grid.symmetric else (high - low) / (grid.hi - grid.lo)
    if grid.granularity == "tensor":
        step = np.broadcast_to(step.max(), step.shape)
    return np.repeat(step, block, axis=0)[:rows]
