"""The 8-bit grid of a tensor that is seen only through a function of its elements, such as SiLU or Gelu.

What such a function makes of large negative numbers is next to nothing, so that the codes are better spent
elsewhere: the error that counts is ``E (f(q(x)) - f(x))^2``.
"""

from collections.abc import Callable

import numpy as np

from comq_onnx.records import ActivationKind, ValueGrid
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.ranges import Pattern, choose_grid, code_range, grid_between, search, whole_range

Function = Callable[[np.ndarray], np.ndarray]
PATTERN = Pattern(shares=tuple(np.geomspace(1.0, 0.02, 24).tolist()), rounds=2, factors=(1.15, 1.04), moves=6)


def choose_through(
    histogram: Histogram,
    kind: ActivationKind,
    function: Function,
    low: float = float("-inf"),
    high: float = float("inf"),
) -> ValueGrid:
    """The grid of the least expected squared error of `function`, vector to vector, at the values.

    Never worse in it than the grid of the least squared error of the values, and of their whole range.
    """
    cells = histogram.cells()
    counts = cells.density * np.diff(cells.edges)
    held = counts > 0
    at = np.concatenate([(cells.edges[:-1] + cells.edges[1:])[held] / 2, cells.points])
    mass = np.concatenate([counts[held], cells.masses])
    if not len(at):
        return choose_grid(histogram, kind, "mse", low, high)
    wanted = function(at.astype(np.float32)).astype(np.float64)
    bottom, top = code_range(kind)

    def error(grid: ValueGrid) -> float:
        levels = (np.arange(bottom, top + 1) - grid.zero_point) * np.float32(grid.scale)
        made = function(levels.astype(np.float32)).astype(np.float64)
        code = np.clip(np.rint(at / grid.scale) + grid.zero_point, bottom, top).astype(np.intp) - bottom
        return float((mass * np.square(made[code] - wanted)).sum())

    plain = choose_grid(histogram, kind, "mse", low, high)
    ends = tuple((code - plain.zero_point) * plain.scale for code in (bottom, top))
    starts = [whole_range(histogram), (ends[0], ends[1])]
    return search(error, starts, lambda e: grid_between(e, kind, low, high), PATTERN)
