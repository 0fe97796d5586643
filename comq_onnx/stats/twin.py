"""Two ranges for values of which most are small and few are large: those behind a Softmax or a GELU.

The twin uniform quantization of PTQ4ViT (Yuan et al., ECCV 2022), as a sum that any runtime computes:
``x = min(x, T) + max(x - T, 0)``. Up to the threshold T the second term is 0, and beyond it the first is T,
which its highest code stands for exactly: only one of them is rounded.
"""

from collections.abc import Iterable

import numpy as np

from comq_onnx.records import ActivationKind, TwinGrid, ValueGrid
from comq_onnx.stats.histogram import Cells, Histogram
from comq_onnx.stats.ranges import code_range, grid_between, squared_error, whole_range

LEAST_GAIN = 2.0
"""Below this, a second product is not worth what it takes."""
COARSE = tuple(2.0 ** -np.arange(0.5, 12.5, 0.5))
"""Thresholds that are tried, as parts of the largest value"""
CLIPPED = tuple(2.0 ** -np.arange(0, 2, 0.25))
"""Upper ends that are tried, as parts of what is beyond the threshold"""
FAINT = 1e-6
"""Errors of this part of the largest value are float32 rounding, which no grid avoids."""
FINE = (2.0**-0.25, 2.0**-0.125, 1.0, 2.0**0.125, 2.0**0.25)
"""By which the best threshold and its upper end are moved"""


def choose_twin(
    histogram: Histogram, kind: ActivationKind, plain: ValueGrid, least_gain: float = LEAST_GAIN
) -> TwinGrid | None:
    """The two grids of the least expected squared error among those tried.

    None where that is not `least_gain` times less than the error of `plain`, the one grid that would be used.
    The lower range reaches from the lowest value (zero included) to the threshold.
    """
    low, high = whole_range(histogram)
    if high <= 0:
        return None
    cells = histogram.cells()
    start = _least(cells, (low, high), kind, COARSE, CLIPPED)
    ends = start[1].threshold / high, start[1].large.scale * _steps(start[1].large)
    share = ends[1] / (high - start[1].threshold)
    near = [(ends[0] * by, [share * other for other in FINE]) for by in FINE if ends[0] * by < 1]
    error, twin = min(
        [start, *(_least(cells, (low, high), kind, (part,), tops) for part, tops in near)],
        key=lambda pair: pair[0],
    )
    before = squared_error(cells, plain)
    faint = (histogram.count - histogram.zeros) * (FAINT * high) ** 2
    if before < least_gain * error or before <= faint:
        return None
    gain = before / error if error else float("inf")
    return TwinGrid(twin.threshold, twin.small, twin.large, gain)


def twin_error(cells: Cells, twin: TwinGrid) -> float:
    """The squared error of rounding to the two grids and clipping, summed over all values but zeros."""
    below, above = split(cells, twin.threshold)
    return squared_error(below, twin.small) + squared_error(above, twin.large)


def split(cells: Cells, at: float) -> tuple[Cells, Cells]:
    """The values up to `at`, and by how much the others exceed it."""
    place = int(np.searchsorted(cells.edges, at, side="right"))
    density = np.concatenate([[0.0], cells.density, [0.0]])
    beyond = cells.points > at
    below = Cells(
        np.append(cells.edges[:place], at),
        density[1 : place + 1],
        cells.points[~beyond],
        cells.masses[~beyond],
    )
    above = Cells(
        np.insert(cells.edges[place:] - at, 0, 0.0),
        density[place:-1],
        cells.points[beyond] - at,
        cells.masses[beyond],
    )
    return below, above


def _least(
    cells: Cells,
    ends: tuple[float, float],
    kind: ActivationKind,
    parts: Iterable[float],
    tops: Iterable[float],
) -> tuple[float, TwinGrid]:
    """The best of thresholds at `parts` of the upper end, with ranges beyond of `tops` of what there is."""
    low, high = ends
    found: list[tuple[float, TwinGrid]] = []
    for part in parts:
        small = grid_between((low, high * part), kind)
        threshold = float(np.float32(small.scale) * np.float32(_steps(small)))
        below, above = split(cells, threshold)
        error = squared_error(below, small)
        for top in tops:
            large = grid_between((0.0, max(high - threshold, 0.0) * top), kind)
            found.append((error + squared_error(above, large), TwinGrid(threshold, small, large, 1.0)))
    return min(found, key=lambda pair: pair[0])


def _steps(grid: ValueGrid) -> int:
    """Between zero and the highest code."""
    return code_range(grid.kind)[1] - grid.zero_point
