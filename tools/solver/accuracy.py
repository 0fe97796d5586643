"""Held-out error and time of every solver on real layers."""

import time

import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.grid import Grid, dequantize
from comq_onnx.records import Problem
from comq_onnx.solve import gptq, paper, rtn
from comq_onnx.solve.layer import solve_layer
from comq_onnx.solve.pose import Posed, pose
from comq_onnx.solve.rtn import Rounded
from solver.cases import Case, deviation, held_out_error

ROWS = ("rtn", "rtn searched", "comq-paper", "gptq", "comq fast", "comq normal", "comq max")
COARSE = ("comq-paper coarse", "gptq coarse")
COARSE_FACTORS = (1.0, 0.92, 0.84, 0.76, 0.68)
"""A scale search as short as those that published baselines often have."""
GOALS = {
    "comq normal": {"comq-paper": (0.76, 0.70, 0.61), "gptq": (0.88, 0.79, 0.67)},
    "comq max": {"comq-paper": (0.70, 0.65, 0.57), "gptq": (0.81, 0.73, 0.63)},
}
"""Largest ratios wanted at W4, W3, W2."""


def solved(problem: Problem, row: str, compensate: bool, engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """Weight error ``(G, K, M)`` and bias ``(G, M)`` of one row of a table."""
    if row == "rtn searched" or row in COARSE:
        posed = pose(problem, centred=False)
        with single_threaded_blas():
            p, scale, _ = _baseline(posed, row, engine)
        error = deviation(problem, posed, p, scale)
        mean = problem.stats.mean if problem.stats else np.zeros(error[:, :, 0].shape)
        bias = np.einsum("gk,gkm->gm", mean, error) if compensate else None
    else:
        solver, _, effort = row.partition(" ")
        answer = solve_layer(problem, solver, compensate, effort or "normal", engine)
        error = problem.weight - dequantize(answer.codes, answer.scale, answer.zero_point, answer.grid)
        bias = answer.bias
    return error, np.zeros_like(error[:, 0]) if bias is None else bias


def _baseline(posed: Posed, row: str, engine: Engine) -> Rounded:
    if row == "gptq coarse":
        return gptq.solve(posed, engine, COARSE_FACTORS)[0]
    if row == "comq-paper coarse":
        return paper.solve(posed, engine, factors=COARSE_FACTORS)
    return rtn.solve_searched(posed, engine.backend)


Cell = tuple[float, float]
"""Geometric mean of the held-out errors, seconds"""


def measured(cases: list[Case], grid: Grid, row: str, compensate: bool, engine: Engine) -> Cell:
    """One cell of a table."""
    errors, spent = [], 0.0
    for case in cases:
        problem = Problem(case.weight, case.seen, grid)
        started = time.perf_counter()
        answer = solved(problem, row, compensate, engine)
        spent += time.perf_counter() - started
        errors.append(held_out_error(case, *answer))
    return float(np.exp(np.mean(np.log(errors)))), spent


def table(
    cases: list[Case], grids: list[Grid], rows: tuple[str, ...], compensate: bool, engine: Engine
) -> dict[tuple[str, str], Cell]:
    """Print one table, a line per solver; its cells by (row, grid)."""
    cells: dict[tuple[str, str], Cell] = {}
    print("| solver | " + " | ".join(f"{grid}: error | time" for grid in grids) + " |")
    print("| --- |" + " ---: | ---: |" * len(grids))
    small = min(cases, key=lambda case: case.weight.size)
    for row in rows:
        solved(Problem(small.weight, small.seen, grids[0]), row, compensate, engine)  # the first may compile
        line = []
        for grid in grids:
            cells[row, str(grid)] = measured(cases, grid, row, compensate, engine)
            error, spent = cells[row, str(grid)]
            base = cells.get(("gptq", str(grid)))
            line.append(f"{error:.5f} | {f'{spent / base[1]:.2f}x gptq' if base else f'{spent:.2f} s'}")
        print(f"| {row} | " + " | ".join(line) + " |", flush=True)
    return cells


def print_ratios(cells: dict[tuple[str, str], Cell], grids: list[Grid], goals: bool) -> None:
    """Each effort's error over each baseline's, and the goal where there is one."""
    for row in ("comq fast", "comq normal", "comq max"):
        for base in ("comq-paper", "gptq", *COARSE):
            found = [(cells.get((row, str(grid))), cells.get((base, str(grid)))) for grid in grids]
            ratios = [mine[0] / theirs[0] for mine, theirs in found if mine and theirs]
            if not ratios:
                continue
            wanted = GOALS.get(row, {}).get(base.removesuffix(" coarse")) if goals else None
            text = f"{row} / {base}: " + " ".join(f"{ratio:.3f}" for ratio in ratios)
            print(text + (f"   (goals {' '.join(f'{goal:.2f}' for goal in wanted)})" if wanted else ""))
