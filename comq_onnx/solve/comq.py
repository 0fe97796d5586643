"""The default solver: feedback rounding, coordinate sweeps, scale refits, then kicks; best per channel.

`COMQ <https://arxiv.org/abs/2403.07134>`_ in Gram form, started by rounding with feedback instead of floats,
on the Gram that remains when the bias is eliminated. The starts of a column travel side by side as columns of
their own. The best of them is improved by iterated local search: a few codes are moved against the loss,
coordinate sweeps repair what that broke, and the result is kept where it is better. A sweep stops where no
change of one code helps; kicks get past that at the cost of a few rows of the Gram each.
"""

from dataclasses import dataclass, replace

import numpy as np

from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Array, Backend
from comq_onnx.solve import rtn
from comq_onnx.solve.descent import Columns, Task, descend, loss, settle
from comq_onnx.solve.effort import DEPTH, Settings
from comq_onnx.solve.factor import Ordered, ordered, restored, visited
from comq_onnx.solve.panels import by_pieces, column_losses
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.rtn import Rounded, nearest_steps
from comq_onnx.solve.scales import bounds, searched, spread


def solve(
    posed: Posed, damping: Array, engine: Engine, settings: Settings, gram: Array | None = None
) -> tuple[Rounded, tuple[Array, Array], str]:
    """Steps ``(G, M, K)`` in natural row order, scales as stored and zero points; losses; and a note.

    The losses, ``(G, M)`` under the posed Gram, are those of the answer and of rounding to nearest; the
    answer's twice where it is not guarded by rounding.

    `damping` ``(G,)`` is added to the diagonal of each Gram, as a part of its mean live diagonal. `gram`
    takes the place of the posed one while the codes are searched: a better guess of the inputs' true Gram.
    """
    problem = ordered(posed if gram is None else replace(posed, gram=gram), damping, engine.backend)
    return solve_ordered(posed, problem, engine, settings)


def solve_ordered(
    posed: Posed, problem: Ordered, engine: Engine, settings: Settings
) -> tuple[Rounded, tuple[Array, Array], str]:
    """As `solve`, with the Gram already damped and factored: many grids of one layer share it."""
    backend = engine.backend
    picks = np.random.default_rng(0).random((settings.kicks, DEPTH))

    def piece(part: Posed, groups: slice) -> tuple[Array | None, ...]:
        start = searched(part, backend)
        answer = _columns(part, task_of(part, problem.part(groups)), start, (backend, settings, picks))
        rounded = [rtn.solve(part), rtn.rounded(part, *start)] if settings.guarded else []
        return _best_of(part, [answer, *rounded])

    p, scale, zero, mine, plain = by_pieces(posed, engine, piece)
    return (p, scale, zero), (mine, plain), problem.note


def _columns(
    posed: Posed,
    task: Task,
    start: tuple[Array, Array | None],
    how: tuple[Backend, Settings, np.ndarray],
) -> Rounded:
    """The answer for some columns, from their searched scales; not yet compared with rounding."""
    (scale, zero), (backend, settings, picks), order = start, how, task.ordered.order
    best, rest = explore(task, Columns(task.weight, scale, *bounds(zero, posed)), backend, settings)
    if settings.kicks:
        backend.kick(task.ordered.gram, rest, best.p, best.steps(task.ordered.block_of), picks)
        best, _ = descend(task, best, backend, settings.sweeps, rest)
    scale = posed.stored(best.scale)
    best = settle(task, replace(best, scale=scale), backend)
    p = restored(best.p, order, posed.xp)
    return posed.xp.where(posed.live[:, None], p, nearest_steps(posed, scale, zero)), scale, zero


def task_of(posed: Posed, problem: Ordered) -> Task:
    """All columns of `posed` as a descent wants them."""
    weight = visited(posed.weight, problem.order, posed.xp)
    share = weight.shape[1] if posed.tied else 0
    return Task(problem, weight, weight @ problem.gram, posed.block, posed.xp, share)


def explore(task: Task, first: Columns, backend: Backend, settings: Settings) -> tuple[Columns, Array]:
    """The best steps and scales of each column over all starts, and their residual.

    The steps of `first` are not read.
    """
    xp, cols = task.xp, task.weight.shape[1]
    best = _Best(first, None, None)
    for factors in settings.rounds:
        many, scale = task.repeated(len(factors)), best.columns.scale
        starts = xp.concatenate([(factor * scale).astype(scale.dtype) for factor in factors], axis=1)
        lo, hi = first.lo, first.hi
        if lo.size > 1:
            lo, hi = (xp.tile(values, (1, len(factors), 1)) for values in (lo, hi))
        trial = Columns(many.weight, starts, lo, hi)
        p = backend.feedback(task.ordered.coupling, many.weight, trial.steps(task.ordered.block_of))
        trial, rest = descend(many, replace(trial, p=p), backend, settings.sweeps)
        losses = loss(many, trial, rest)
        for start in range(0, losses.shape[1], cols):
            here = slice(start, start + cols)
            found = replace(first, p=trial.p[:, here], scale=trial.scale[:, here])
            best = _better(task, best, _Best(found, rest[:, here], losses[:, here]))
    p, scale, rest = (
        xp.ascontiguousarray(values) for values in (best.columns.p, best.columns.scale, best.rest)
    )
    return replace(first, p=p, scale=scale), rest


@dataclass(frozen=True)
class _Best:
    """The best start of each column so far: its residual and its loss, None before the first."""

    columns: Columns
    rest: Array | None
    losses: Array | None


def _better(task: Task, best: _Best, trial: _Best) -> _Best:
    """The better of two by column, or as a whole where all share one scale."""
    xp, losses = task.xp, trial.losses
    if task.share:
        losses = xp.full_like(losses, losses.sum())  # pyright: ignore[reportOptionalMemberAccess]
    if best.losses is None:
        return replace(trial, losses=losses)
    better = (losses < best.losses)[:, :, None]
    p = xp.where(better, trial.columns.p, best.columns.p)
    scale = xp.where(better, trial.columns.scale, best.columns.scale)
    rest = xp.where(better, trial.rest, best.rest)
    return _Best(replace(best.columns, p=p, scale=scale), rest, xp.minimum(losses, best.losses))


def _best_of(posed: Posed, answers: list[Rounded]) -> tuple[Array | None, ...]:
    """The best answer of each column under the undamped Gram, the first one among equals.

    Damping makes the solver prefer codes that generalise; this keeps it from ever losing to rounding. Returns
    steps, scales, zero points, and ``(G, M)`` the losses of what is returned and of the second answer, or of
    the only one.
    """
    xp = posed.xp
    losses = [column_losses(posed, posed.weight - spread(scale, posed) * p) for p, scale, _ in answers]
    p, scale, zero = answers[0]
    lowest = losses[0]
    for answer, mine in zip(answers[1:], losses[1:], strict=True):
        total = (mine.sum() < lowest.sum()) if posed.tied else mine < lowest
        better = xp.broadcast_to(total, mine.shape)
        if not bool(better.any()):
            continue
        lowest, wide = xp.where(better, mine, lowest), better[:, :, None]
        p, scale = xp.where(wide, answer[0], p), xp.where(wide, answer[1], scale)
        if zero is not None:
            zero = xp.where(wide, answer[2], zero)
    return p, scale, zero, lowest, losses[min(1, len(losses) - 1)]
