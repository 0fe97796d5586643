"""Coordinate sweeps with scale refits, for many columns at once.

At fixed scales the loss ``tr((W - W')^T H (W - W'))`` never rises in a sweep, because each step is the exact
minimiser of a quadratic in one code; the refit minimises it over the scales at fixed codes.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from comq_onnx.backends.protocol import Array, Backend, Steps
from comq_onnx.solve.factor import Ordered, restored
from comq_onnx.solve.scales import block_refit, ratio_refit

SWEEPS_AT_FIXED_SCALE = 50
"""Bound on the last sweeps; they end when no code moves, after three to ten of them as a rule."""


@dataclass(frozen=True)
class Columns:
    """Steps, scales and bounds of some columns; rows in the order of visit."""

    p: Array
    """``(G, M, K)``"""
    scale: Array
    """``(G, M, B)``"""
    lo: Array
    hi: Array
    """``(G, M, B)``, or ``(1, 1, 1)`` on a symmetric grid"""

    def steps(self, block_of: Array) -> Steps:
        return Steps(self.scale, self.lo, self.hi, block_of)


@dataclass(frozen=True)
class Task:
    """What a descent works on: the ordered Gram, the weights of its columns, and how scales are tied."""

    ordered: Ordered
    weight: Array
    """``(G, M, K)``, rows in the order of visit"""
    pull: Array
    """``H W``, ``(G, M, K)``"""
    block: int
    """Rows to a scale, in natural order"""
    xp: Any
    share: int = 0
    """Columns that hold one scale together; 0 where each has its own"""

    def repeated(self, times: int) -> "Task":
        """All columns, `times` times side by side."""
        if times == 1:
            return self
        tile = self.xp.tile
        return replace(self, weight=tile(self.weight, (1, times, 1)), pull=tile(self.pull, (1, times, 1)))


def deviation(task: Task, columns: Columns) -> Array:
    """``W - W'``, ``(G, M, K)``."""
    return task.weight - columns.steps(task.ordered.block_of).spread(columns.scale) * columns.p


def residual(task: Task, columns: Columns) -> Array:
    """``H (W - W')``, ``(G, M, K)``."""
    return deviation(task, columns) @ task.ordered.gram


def loss(task: Task, columns: Columns, rest: Array) -> Array:
    """``(G, M)``: the quadratic form of each column's error under the ordered Gram, from its residual."""
    return (deviation(task, columns) * rest).sum(axis=2, dtype=np.float64)


def descend(
    task: Task, columns: Columns, backend: Backend, sweeps: int, rest: Array | None = None
) -> tuple[Columns, Array]:
    """Sweep and refit in turn until nothing moves, at most `sweeps` times; and the residual.

    Scales that are tied or come in blocks are refitted once, after the sweeps. `rest` is the residual of
    `columns` where it is known; it is used up.
    """
    here = replace(columns, p=columns.p.copy(), scale=columns.scale.copy())
    rest = residual(task, here) if rest is None else rest
    gram, block_of = task.ordered.gram, task.ordered.block_of
    if here.scale.shape[2] == 1 and not task.share:
        backend.descend(gram, task.pull, rest, here.p, here.steps(block_of), sweeps, True)
        return here, rest
    backend.descend(gram, task.pull, rest, here.p, here.steps(block_of), sweeps, False)
    # Such a refit costs several sweeps: it is made once, and what follows a descent starts from it.
    here = replace(here, scale=refit(task, here, rest))
    return here, residual(task, here)


def refit(task: Task, columns: Columns, rest: Array) -> Array:
    """The best scales for these codes, ``(G, M, B)``."""
    order, xp = task.ordered.order, task.xp
    if columns.scale.shape[2] > 1:
        pull, p = restored(task.pull, order, xp), restored(columns.p, order, xp)
        return block_refit(task.ordered.natural, pull, p, columns.scale, task.block, xp)
    top = (columns.p * task.pull).sum(axis=2, dtype=np.float64)
    bottom = (top - (columns.p * rest).sum(axis=2, dtype=np.float64)) / columns.scale[:, :, 0]
    return ratio_refit(columns.scale, top, bottom, task.share, xp)


def settle(task: Task, columns: Columns, backend: Backend) -> Columns:
    """Sweep at fixed scales until no single code change lowers the loss."""
    here = replace(columns, p=columns.p.copy())
    rest = residual(task, here)
    gram, steps = task.ordered.gram, here.steps(task.ordered.block_of)
    backend.descend(gram, task.pull, rest, here.p, steps, SWEEPS_AT_FIXED_SCALE, False)
    return here
