"""One layer from problem to solution: choose the Gram, run the solver, fold the bias, measure the error."""

import numpy as np

from comq_onnx.backends import numpy_
from comq_onnx.grid import dequantize
from comq_onnx.records import InputStats, Problem, Quality, Solution
from comq_onnx.solve import comq, gptq, paper, rtn
from comq_onnx.solve.damping import chosen
from comq_onnx.solve.pose import Posed, pose, second_moment

SOLVERS = ("rtn", "gptq", "comq-paper", "comq")


def solve_layer(problem: Problem, solver: str, compensate: bool) -> Solution:
    """Codes, scales and compensating bias of one layer.

    Parameters
    ----------
    problem
        Weight, input statistics and grid. Read only; never written to.
    solver
        ``"rtn"``, ``"gptq"``, ``"comq-paper"`` or ``"comq"``. The first three solve on the uncentred Gram,
        as published; ``comq`` does so only without compensation.
    compensate
        Fold the bias ``mean^T (W - W')`` that is best for the codes and the scales as stored. Without
        activations there is no mean and so no bias.

    Raises
    ------
    ValueError
        Where `solver` is none of `SOLVERS`, or shapes disagree.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {SOLVERS}, not {solver!r}")
    _check(problem)
    centred = compensate and solver == "comq"
    posed = pose(problem, centred)
    p, scale, zero, note = _run(problem, posed, solver, centred)
    p, scale, zero = _unposed(posed, p, scale, zero)
    return _solution(problem, (p, scale, zero), compensate, "; ".join(filter(None, (posed.note, note))))


def _run(
    problem: Problem, posed: Posed, solver: str, centred: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str]:
    if solver == "rtn":
        return (*rtn.solve(posed), "")
    if solver == "gptq":
        return gptq.solve(posed, numpy_)
    if solver == "comq-paper":
        return (*paper.solve(posed, numpy_), "")
    answer, note = comq.solve(posed, chosen(problem, posed, centred, numpy_), numpy_, comq.Settings())
    return (*answer, note)


def _check(problem: Problem) -> None:
    groups, rows, _ = problem.weight.shape
    if problem.stats is not None and problem.stats.gram.shape != (groups, rows, rows):
        raise ValueError(f"Gram {problem.stats.gram.shape} does not fit weight {problem.weight.shape}")


def _unposed(
    posed: Posed, p: np.ndarray, scale: np.ndarray, zero: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes, scales and zero points in the problem's own units and stored types."""
    grid = posed.grid
    scale = np.ldexp(scale, posed.exponent).astype(np.float32)
    if zero is None:
        return p.astype(grid.code_dtype), scale, None
    rows, block = p.shape[1], posed.block
    codes = p + np.repeat(zero, block, axis=1)[:, :rows]
    return codes.astype(grid.code_dtype), scale, zero.astype(grid.code_dtype)


def _solution(
    problem: Problem, stored: tuple[np.ndarray, np.ndarray, np.ndarray | None], compensate: bool, note: str
) -> Solution:
    stats, weight = problem.stats, np.asarray(problem.weight, dtype=np.float64)
    error = weight - dequantize(*stored, problem.grid)
    bias = None
    if compensate and stats is not None:
        bias = np.einsum("gk,gkm->gm", stats.mean, error)
    before = pose(Problem(weight, None, problem.grid, problem.scale_dtype), centred=False)
    nearest = dequantize(*_unposed(before, *rtn.solve(before)), problem.grid)
    quality = Quality(
        signal=squared_output(weight, stats, centred=False),
        rtn=squared_output(weight - nearest, stats, centred=False),
        solved=squared_output(error, stats, centred=bias is not None),
    )
    return Solution(problem.grid, *stored, bias, quality, note)


def squared_output(error: np.ndarray, stats: InputStats | None, centred: bool) -> float:
    """``E ||error^T x||^2``, summed over groups and columns, or its variance part alone when `centred`."""
    if stats is None:
        return float(np.square(error).sum())
    return max(float(np.vdot(error, second_moment(stats, centred) @ error)), 0.0)
