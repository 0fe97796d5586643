"""Solutions made by rounding, so that writers are tested apart from solvers."""

from collections.abc import Callable

import numpy as np
import pytest

from comq_onnx.grid import Grid, nearest
from comq_onnx.records import Quality, Solution


@pytest.fixture
def solve_nearest_rows() -> Callable[[np.ndarray, Grid, bool], Solution]:
    """Round ``(groups, rows, cols)`` to a per-channel grid, with a bias of ones on request."""

    def solve(rows: np.ndarray, grid: Grid, compensated: bool) -> Solution:
        scale = (np.abs(rows).max(axis=1, keepdims=True) / grid.hi).astype(np.float32)
        codes = nearest(rows, scale, None, grid)
        bias = np.ones((rows.shape[0], rows.shape[2])) if compensated else None
        return Solution(grid, codes, scale, None, bias, Quality(1.0, 1.0, 1.0))

    return solve
