"""One layer from problem to solution: choose the Gram, run the solver, fold the bias, measure the error."""

from dataclasses import replace

import numpy as np

from comq_onnx.backends.engine import Engine, cpu_engine, single_threaded_blas
from comq_onnx.backends.protocol import on_host
from comq_onnx.grid import dequantize
from comq_onnx.records import InputStats, Layout, Problem, Solution
from comq_onnx.solve import comq, gptq, paper, rtn
from comq_onnx.solve.damping import chosen
from comq_onnx.solve.effort import EFFORTS, settings_for
from comq_onnx.solve.pose import Posed, pose
from comq_onnx.solve.quality import Kind, Losses, measured
from comq_onnx.solve.rtn import Rounded
from comq_onnx.solve.spectrum import FLOOR, estimated
from comq_onnx.solve.target import corrected

SOLVERS = ("rtn", "rtn-searched", "gptq", "comq-paper", "comq")


def solve_layer(
    problem: Problem, solver: str, compensate: bool, effort: str = "normal", engine: Engine | None = None
) -> Solution:
    """Codes, scales and compensating bias of one layer.

    Parameters
    ----------
    problem
        Weight, input statistics and grid. Read only; never written to.
    solver
        ``"rtn"``, ``"rtn-searched"``, ``"gptq"``, ``"comq-paper"`` or ``"comq"``. All but the last solve on
        the uncentred Gram, as published; ``comq`` does so only without compensation.
    compensate
        Fold the bias ``mean^T (W - W')`` that is best for the codes and the scales as stored. Without
        activations there is no mean and so no bias.
    effort
        ``"fast"``, ``"normal"`` or ``"max"``: how long ``comq`` searches.
    engine
        What computes; the CPU on all cores where it is None.

    Raises
    ------
    ValueError
        Where `solver` or `effort` is unknown, or shapes disagree.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {SOLVERS}, not {solver!r}")
    if effort not in EFFORTS:
        raise ValueError(f"effort must be one of {tuple(EFFORTS)}, not {effort!r}")
    _check(problem)
    engine = engine or cpu_engine()
    centred = compensate and solver == "comq"
    original = np.asarray(problem.weight, dtype=np.float64)
    with single_threaded_blas():
        if solver == "comq":
            weight, _ = corrected(problem, centred, engine)
            problem = replace(problem, weight=weight)
        posed = pose(problem, centred, engine.backend.xp)
        answer, losses, note = _run(problem, posed, solver, centred, (effort, engine))
        kind = Kind(centred, compensate and problem.stats is not None)
        quality = measured(posed, answer, problem.stats, kind, engine, losses)
    stored, bias = unposed(posed, answer), None
    if compensate and problem.stats is not None:
        bias = compensating(problem.stats, original, original - dequantize(*stored, problem.grid))
    note = "; ".join(filter(None, (posed.note, note)))
    return Solution(problem.grid, *stored, bias, quality, note)


def _run(
    problem: Problem, posed: Posed, solver: str, centred: bool, how: tuple[str, Engine]
) -> tuple[Rounded, Losses | None, str]:
    effort, engine = how
    if solver == "rtn":
        return rtn.solve(posed), None, ""
    if solver == "rtn-searched":
        return rtn.solve_searched(posed, engine), None, ""
    if solver == "gptq":
        answer, note = gptq.solve(posed, engine)
        return answer, None, note
    if solver == "comq-paper":
        return paper.solve(posed, engine), None, ""
    settings, stats = settings_for(effort, posed.weight.shape[2]), problem.stats
    if settings.spectrum and stats is not None and stats.half is not None:
        damping = posed.xp.full(len(posed.live), FLOOR)
        return comq.solve(posed, damping, engine, settings, estimated(stats, posed, centred))
    damping = chosen(stats, posed, centred, engine)
    return comq.solve(posed, damping, engine, settings)


def cost(layout: Layout) -> int:
    """What a layer takes to solve, beside others: cells of its weight or of its Gram."""
    return max(layout.rows, layout.cols) * layout.rows * layout.groups


def compensating(stats: InputStats, weight: np.ndarray, error: np.ndarray) -> np.ndarray:
    """``(groups, cols)``: what the output lacks on average, by the layer's error and its inputs' drift."""
    bias = np.einsum("gk,gkm->gm", on_host(stats.mean), error)
    if stats.drift is not None:
        bias += np.einsum("gk,gkm->gm", stats.drift.mean, weight)
        if stats.drift.residual_mean is not None:
            bias += stats.drift.residual_mean
    return bias


def _check(problem: Problem) -> None:
    groups, rows, _ = problem.weight.shape
    if problem.stats is not None and problem.stats.gram.shape != (groups, rows, rows):
        raise ValueError(f"Gram {problem.stats.gram.shape} does not fit weight {problem.weight.shape}")


def unposed(posed: Posed, answer: Rounded) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes, scales and zero points in the problem's own units, layout and stored types."""
    grid, (p, scale, zero) = posed.grid, answer
    scale = np.ldexp(on_host(scale).astype(np.float64), on_host(posed.exponent))
    scale = np.ascontiguousarray(scale.astype(np.float32).swapaxes(1, 2))
    codes = on_host(p)
    if zero is None:
        return np.ascontiguousarray(codes.astype(grid.code_dtype).swapaxes(1, 2)), scale, None
    zero = on_host(zero)
    codes = codes + np.repeat(zero, posed.block, axis=2)[:, :, : codes.shape[2]]
    codes, zero = (np.ascontiguousarray(v.astype(grid.code_dtype).swapaxes(1, 2)) for v in (codes, zero))
    return codes, scale, zero
