"""Whole layers on a GPU and on the CPU.

Both compute the same formulas; sums of float32 are added in another order, and where two codes are nearly
equally good the two may choose differently and go on from there. So most codes agree, and the losses do.
"""

import numpy as np
import pytest

from comq_onnx.backends.engine import Engine, cpu_engine
from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem, Solution
from comq_onnx.solve.layer import SOLVERS, solve_layer

LOSS = 0.02
"""Relative difference of the losses; 0.02 of a loss is far below what calibration data decides."""
CODES = {"rtn": 1.0, "rtn-searched": 0.9, "gptq": 0.9, "comq-paper": 0.9, "comq": 0.6}
"""Share of equal codes at least. Kicks accept or refuse whole sets of moves, so `comq` differs the most."""
SHAPES = [(1, 9, 4), (200, 9, 1), (1, 300, 24), (4, 64, 8), (1, 1024, 32)]
GRIDS = [
    Grid(4),
    Grid(2, symmetric=False),
    Grid(3, granularity="tensor"),
    Grid(4, granularity="block", block_size=32),
]


def problem_of(shape: tuple[int, int, int], grid: Grid) -> Problem:
    groups, rows, _ = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(groups, 2 * rows + 50, rows)) @ (rng.normal(size=(groups, rows, rows)) / rows**0.5)
    x += rng.normal(size=(groups, 1, rows))
    whole, half = (
        InputStats(part.mean(axis=1), part.swapaxes(1, 2) @ part / part.shape[1], part.shape[1])
        for part in (x, x[:, : x.shape[1] // 2])
    )
    return Problem(rng.normal(size=shape), InputStats(whole.mean, whole.gram, whole.count, half), grid)


def check(got: Solution, wanted: Solution, solver: str) -> None:
    assert (got.codes == wanted.codes).mean() >= CODES[solver]
    assert got.quality.signal == pytest.approx(wanted.quality.signal, rel=1e-4)
    assert got.quality.rtn == pytest.approx(wanted.quality.rtn, rel=1e-4)
    assert got.quality.solved == pytest.approx(wanted.quality.solved, rel=LOSS)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_layers_are_solved_as_on_the_cpu(
    gpu_engine: Engine, solver: str, grid: Grid, shape: tuple[int, int, int]
) -> None:
    problem = problem_of(shape, grid)
    answers = [solve_layer(problem, solver, True, engine=engine) for engine in (gpu_engine, cpu_engine())]
    check(answers[0], answers[1], solver)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [4096, 14336])
def test_long_columns_beat_rounding(gpu_engine: Engine, rows: int) -> None:
    """14,336 rows in float32 do not fit in 48 KB of shared memory; with a trial beside them not in 64 KB."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 2000, rows)) * rng.uniform(0.1, 2, rows) + 0.3 * rng.normal(size=(1, 2000, 1))
    stats = InputStats(x.mean(axis=1), x.swapaxes(1, 2) @ x / x.shape[1], x.shape[1])
    problem = Problem(rng.normal(size=(1, rows, 8)), stats, Grid(4))
    answer = solve_layer(problem, "comq", True, engine=gpu_engine)
    assert answer.quality.solved < 0.8 * answer.quality.rtn


def test_the_same_bits_on_every_run(gpu_engine: Engine) -> None:
    problem = problem_of((1, 300, 24), Grid(3))
    first, second = (solve_layer(problem, "comq", True, engine=gpu_engine) for _ in range(2))
    assert np.array_equal(first.codes, second.codes)
    assert np.array_equal(first.scale, second.scale)
