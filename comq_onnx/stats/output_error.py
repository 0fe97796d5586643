"""The 8-bit grid of a layer's input that changes the layer's output least."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from comq_onnx.backends.engine import single_threaded_blas
from comq_onnx.records import ActivationKind, ValueGrid
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.ranges import Ends, Pattern, choose_grid, code_range, grid_between, search, whole_range

COARSE = Pattern(tuple(2.0 ** -np.arange(0, 5, 0.5)), 1, (1.2, 1.06), 3)
WORK = 1 << 27
"""Multiplications for one grid, beyond which fewer rows are looked at"""
ROWS_AT_LEAST = 64


@dataclass(frozen=True)
class Reading:
    """How one layer reads a value."""

    rows: np.ndarray
    """``(groups, n, rows)``: some of the vectors that its weight multiplies"""
    weight: np.ndarray
    """``(groups, rows, cols)``, as it is stored: quantized weights dequantized"""


def choose_by_output(
    histogram: Histogram,
    kind: ActivationKind,
    readings: Sequence[Reading],
    low: float = float("-inf"),
    high: float = float("inf"),
    centred: bool = False,
) -> ValueGrid:
    """The grid with the least error ``E || W^T (q(x) - x) ||^2`` of the layers' outputs, on their rows.

    The error of each group of a layer counts relative to the group's own ``E || W^T x ||^2``: the channels of
    a depthwise convolution differ in size by a lot, and what follows may even that out. Groups are averaged,
    layers summed. The search starts at the grids of minmax, percentile and mse and is, on the rows it looks
    at, never worse than the best of them. `centred` leaves out the mean of ``q(x) - x``, which a bias will
    compensate. `kind`, `low` and `high` are those of `choose_grid`; without rows it is the grid of mse.
    """
    mse = choose_grid(histogram, kind, "mse", low, high)
    readings = [reading for reading in readings if reading.rows.size]
    if not readings or histogram.low == histogram.high == 0:
        return mse
    whole = whole_range(histogram)
    others = [mse, *(choose_grid(histogram, kind, name, low, high) for name in ("minmax", "percentile"))]
    with single_threaded_blas():
        measures = [_Measure(reading, centred) for reading in readings]
        return search(
            lambda grid: sum(measure.error(grid) for measure in measures),
            [whole, *map(_ends, others)],
            lambda ends: grid_between(ends, kind, low, high),
            COARSE,
        )


def rounded(values: np.ndarray, grid: ValueGrid) -> np.ndarray:
    """Float32 values as they come out of the grid: ``scale * (code - zero_point)``, computed in float32."""
    bottom, top = code_range(grid.kind)
    codes = np.rint(values / np.float32(grid.scale))
    return np.clip(codes, bottom - grid.zero_point, top - grid.zero_point) * np.float32(grid.scale)


class _Measure:
    """The relative output error of one layer. ``|| W^T d ||^2 = d^T (W W^T) d`` where that is less work."""

    def __init__(self, reading: Reading, centred: bool) -> None:
        weight = reading.weight.astype(np.float32)
        self._wide = weight.shape[2] > weight.shape[1]
        self._weight = weight @ weight.swapaxes(1, 2) if self._wide else weight
        groups, rows, cols = self._weight.shape
        most = max(ROWS_AT_LEAST, WORK // (groups * rows * cols))
        step = -(-reading.rows.shape[1] // most)
        self._rows = np.ascontiguousarray(reading.rows[:, ::step], np.float32)
        self._centred = centred
        signal = self._energy(self._rows)
        self._signal = np.where(signal > 0, signal, 1.0)

    def error(self, grid: ValueGrid) -> float:
        off = rounded(self._rows, grid)
        off -= self._rows
        if self._centred:
            off -= off.mean(axis=1, keepdims=True)
        return float((self._energy(off) / self._signal).mean())

    def _energy(self, rows: np.ndarray) -> np.ndarray:
        """``(groups,)``: the squared norm of a group's outputs without bias, summed over the rows."""
        out: Any = rows @ self._weight
        out *= rows if self._wide else out
        return out.sum(axis=(1, 2), dtype=np.float64)


def _ends(grid: ValueGrid) -> Ends:
    bottom, top = code_range(grid.kind)
    if grid.kind.symmetric and grid.kind.signed:
        return -top * grid.scale, top * grid.scale
    return (bottom - grid.zero_point) * grid.scale, (top - grid.zero_point) * grid.scale
