"""Whole layers on arrays that refuse to mix with NumPy's, as CuPy's do, with the GPU's kernels on the CPU."""

import numpy as np
import pytest
from backends.cuda_on_cpu import HostLauncher, cuda_on_cpu_backend
from backends.strict_arrays import Library

from comq_onnx.backends.cupy_ import CudaBackend
from comq_onnx.backends.engine import Engine
from comq_onnx.grid import Grid
from comq_onnx.moments import merged
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.layer import SOLVERS, solve_layer

GRIDS = [
    Grid(4),
    Grid(3, symmetric=False),
    Grid(4, granularity="tensor"),
    Grid(2, symmetric=False, granularity="block", block_size=16),
]
CASES = [(solver, "normal") for solver in SOLVERS] + [("comq", "fast"), ("comq", "max")]


def stats_of(x: np.ndarray) -> InputStats:
    return InputStats(x.mean(axis=1), x.swapaxes(1, 2) @ x / x.shape[1], x.shape[1])


@pytest.mark.parametrize("seen", ["halves", "whole", "none"])
@pytest.mark.parametrize("shape", [(1, 24, 6), (3, 9, 1)], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("solver", "effort"), CASES)
def test_layers_are_solved_without_leaving_the_device(
    solver: str, effort: str, grid: Grid, shape: tuple[int, int, int], seen: str
) -> None:
    cuda_on_cpu_backend()
    (groups, rows, _), rng = shape, np.random.default_rng(0)
    x = rng.normal(size=(groups, 5 * rows + 8, rows)) @ rng.normal(size=(groups, rows, rows))
    x[:, :, :2] *= np.arange(groups)[:, None, None] > 0
    x[-1] *= groups == 1
    halves = merged(*(stats_of(part) for part in np.array_split(x, 2, axis=1)))
    stats = {"halves": halves, "whole": stats_of(x), "none": None}[seen]
    problem = Problem(rng.normal(size=shape), stats, grid, "bfloat16")
    device = Engine(CudaBackend(Library(), HostLauncher()), 1)
    host = Engine(cuda_on_cpu_backend(), 1)
    for compensate in (True, False):
        got, wanted = (solve_layer(problem, solver, compensate, effort, engine) for engine in (device, host))
        assert np.array_equal(got.codes, wanted.codes)
        assert np.array_equal(got.scale, wanted.scale)
        assert type(got.codes) is type(got.scale) is np.ndarray
