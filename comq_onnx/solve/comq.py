"""The default solver: feedback rounding, coordinate sweeps, scale refits, several starts, best per channel.

`COMQ <https://arxiv.org/abs/2403.07134>`_ in Gram form, started by rounding with feedback instead of floats,
on the Gram that remains when the bias is eliminated. All starts of a column travel side by side as columns of
their own; each round draws them around the best scale the column has seen.
"""

from dataclasses import dataclass, replace

import numpy as np

from comq_onnx.backends.protocol import Backend
from comq_onnx.grid import spread
from comq_onnx.solve import pairs, rtn
from comq_onnx.solve.descent import Columns, Task, descend, loss, settle
from comq_onnx.solve.factor import Ordered, ordered, restored
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.rtn import Rounded, nearest_steps
from comq_onnx.solve.scales import bounds, searched

FLOAT32_ROWS = 256
"""Columns this long are explored in float32 and finished in float64; shorter ones are float64 throughout."""
CELLS = 1 << 24
"""Rows x columns x starts explored at a time, to bound the memory."""


@dataclass(frozen=True)
class Settings:
    """How hard to try.

    Judged on four MatMuls and the calibration sentences of `tools/bench_solver.py` alone, three quarters of
    them against the fourth.
    """

    rounds: tuple[tuple[float, ...], ...] = (
        (1.0, 0.95, 0.9, 0.85),
        (0.95, 0.98, 1.02, 1.05),
        (0.97, 0.985, 1.01, 1.03),
        (0.96, 0.99, 1.005, 1.02),
    )
    """Per round, factors on the best scale so far: first the searched one, then the refitted one."""
    sweeps: int = 10
    """Most sweeps in a round; a column that no longer moves is left alone."""


def solve(posed: Posed, damping: np.ndarray, backend: Backend, settings: Settings) -> tuple[Rounded, str]:
    """Steps ``(G, K, M)`` in natural row order, scales as stored and zero points; and a note.

    `damping` ``(G,)`` is added to the diagonal of each Gram, as a part of its mean live diagonal.
    """
    exact = ordered(posed, damping)
    best, zero = _explored(posed, exact, backend, settings)
    scale = posed.stored(best.scale)
    settled = finished(_task(posed, exact, slice(None)), replace(best, scale=scale), backend)
    p = np.where(posed.live[:, :, None], restored(settled.p, exact.order), nearest_steps(posed, scale, zero))
    return _best_of(posed, [(p, scale, zero), rtn.solve(posed), rtn.solve(posed, search=True)]), exact.note


def quick(posed: Posed, damping: np.ndarray, backend: Backend, settings: Settings) -> Rounded:
    """As `solve`, without the last sweeps at stored scales and without the comparison with rounding."""
    problem = ordered(posed, damping)
    best, zero = _explored(posed, problem, backend, settings)
    p, scale = restored(best.p, problem.order).astype(np.float64), best.scale.astype(np.float64)
    return np.where(posed.live[:, :, None], p, nearest_steps(posed, scale, zero)), scale, zero


def _explored(
    posed: Posed, exact: Ordered, backend: Backend, settings: Settings
) -> tuple[Columns, np.ndarray | None]:
    """The best steps of all starts, rows in the order of visit, and the zero points they are bound by."""
    rough = exact.as_type(np.float32) if posed.weight.shape[1] >= FLOAT32_ROWS else exact
    first, zero = searched(posed)
    lo, hi = bounds(zero, posed.grid)
    groups, rows, cols = posed.weight.shape
    width = cols if posed.tied else max(1, CELLS // (groups * rows * max(map(len, settings.rounds))))
    p, scale = np.empty_like(posed.weight), np.empty_like(first)
    for start in range(0, cols, width):
        part = slice(start, start + width)
        limits = (lo, hi) if zero is None else (lo[..., part], hi[..., part])
        task = _task(posed, rough, part)
        best = explore(task, Columns(task.weight, first[..., part], *limits), backend, settings)
        p[..., part], scale[..., part] = best.p, best.scale
    return Columns(p, scale, lo, hi), zero


def finished(task: Task, columns: Columns, backend: Backend) -> Columns:
    """Move codes until no change of one lowers the loss, nor in short columns of two by one step."""
    settled = settle(task, columns, backend)
    if task.weight.shape[1] > pairs.ROWS:
        return settled
    return settle(task, pairs.settle_pairs(task, settled), backend)


def _best_of(posed: Posed, answers: list[Rounded]) -> Rounded:
    """The best answer of each column under the undamped Gram, the first one among equals.

    Damping makes the solver prefer codes that generalise; this keeps it from ever losing to rounding.
    """
    rows, block = posed.weight.shape[1], posed.block
    best, lowest = answers[0], None
    for p, scale, zero in answers:
        error = posed.weight - spread(scale, rows, block) * p
        here = np.einsum("gkm,gkm->gm", error, posed.gram @ error)
        if posed.tied:
            here = np.full_like(here, here.sum())
        if lowest is None:
            lowest = here
            continue
        better = (here < lowest)[:, None]
        lowest = np.minimum(lowest, here)
        zeros = None if best[2] is None or zero is None else np.where(better, zero, best[2])
        best = np.where(better, p, best[0]), np.where(better, scale, best[1]), zeros
    return best


def _task(posed: Posed, problem: Ordered, part: slice) -> Task:
    weight = problem.weight[..., part]
    return Task(problem, weight, problem.gram @ weight, posed.block, weight.shape[2] if posed.tied else 0)


def explore(task: Task, first: Columns, backend: Backend, settings: Settings) -> Columns:
    """The best steps and scales of each column over all starts; the steps of `first` are not read."""
    dtype = task.weight.dtype
    lo, hi, scale = (values.astype(dtype) for values in (first.lo, first.hi, first.scale))
    best = Columns(task.weight.copy(), scale, lo, hi)
    lowest = np.full((task.weight.shape[0], task.weight.shape[2]), np.inf)
    for factors in settings.rounds:
        starts = np.concatenate([factor * best.scale for factor in factors], axis=2).astype(dtype)
        many, limits = _repeated(task, len(factors)), (lo, hi)
        if lo.shape[2] > 1:
            limits = tuple(np.tile(values, len(factors)) for values in limits)
        trial = Columns(many.weight, starts, *limits)
        p = backend.feedback(task.ordered.coupling, many.weight, trial.steps(task.ordered.block_of))
        trial = descend(many, Columns(p, starts, *limits), backend, settings.sweeps)
        best, lowest = _better(task, best, lowest, trial, loss(many, trial))
    return best


def _repeated(task: Task, times: int) -> Task:
    return Task(task.ordered, np.tile(task.weight, times), np.tile(task.pull, times), task.block, task.share)


def _better(
    task: Task, best: Columns, lowest: np.ndarray, trial: Columns, losses: np.ndarray
) -> tuple[Columns, np.ndarray]:
    """The best of `best` and `trial`'s starts, by column, or as a whole where all share one scale."""
    cols = lowest.shape[1]
    p, scale = best.p.copy(), best.scale.copy()
    for start in range(0, losses.shape[1], cols):
        here = losses[:, start : start + cols]
        if task.share:
            here = np.full_like(here, here.sum())
        better = here < lowest
        lowest = np.where(better, here, lowest)
        p = np.where(better[:, None], trial.p[:, :, start : start + cols], p)
        scale = np.where(better[:, None], trial.scale[:, :, start : start + cols], scale)
    return Columns(p, scale, best.lo, best.hi), lowest
