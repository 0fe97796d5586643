"""Coordinate sweeps with scale refits, for many columns at once; columns that stand still are left out.

At fixed scales the loss ``tr((W - W')^T H (W - W'))`` never rises in a sweep, because each step is the exact
minimiser of a quadratic in one code; the refit minimises it over the scales at fixed codes.
"""

from dataclasses import dataclass, replace

import numpy as np

from comq_onnx.backends.protocol import Backend, Steps
from comq_onnx.solve.factor import Ordered, restored
from comq_onnx.solve.scales import block_refit, ratio_refit

STILL = 1e-5
"""A scale that moves by less than this part of itself has settled."""
BLOCK_REFITS = (0, 2, 5)
"""Sweeps of a descent after which the scales of blocks are refitted, besides the one in which nothing moved:
a refit of many blocks costs as much as several sweeps."""
SWEEPS_AT_FIXED_SCALE = 50
"""Bound on the last sweeps; they end when no code moves, after three to ten of them as a rule."""


@dataclass(frozen=True)
class Columns:
    """Steps, scales and bounds of some columns; rows in the order of visit."""

    p: np.ndarray
    """``(G, K, M)``"""
    scale: np.ndarray
    """``(G, B, M)``"""
    lo: np.ndarray
    hi: np.ndarray
    """``(G, B, M)``, or ``(1, 1, 1)`` on a symmetric grid"""

    def steps(self, block_of: np.ndarray) -> Steps:
        shape = self.scale.shape
        return Steps(self.scale, np.broadcast_to(self.lo, shape), np.broadcast_to(self.hi, shape), block_of)

    def take(self, which: np.ndarray) -> "Columns":
        """The columns `which`, copied."""
        fixed = self.lo.shape[2] == 1 and self.scale.shape[2] > 1
        lo, hi = (self.lo, self.hi) if fixed else (np.take(self.lo, which, 2), np.take(self.hi, which, 2))
        return Columns(np.take(self.p, which, 2), np.take(self.scale, which, 2), lo, hi)


@dataclass(frozen=True)
class Task:
    """What a descent works on: the ordered Gram, the weights of its columns, and how scales are tied."""

    ordered: Ordered
    weight: np.ndarray
    """``(G, K, M)``, rows in the order of visit"""
    pull: np.ndarray
    """``H W``, ``(G, K, M)``"""
    block: int
    """Rows to a scale, in natural order"""
    share: int = 0
    """Columns that hold one scale together; 0 where each has its own"""

    def take(self, which: np.ndarray) -> "Task":
        weight, pull = np.take(self.weight, which, 2), np.take(self.pull, which, 2)
        return replace(self, weight=weight, pull=pull)


def loss(task: Task, columns: Columns) -> np.ndarray:
    """``(G, M)``: the quadratic form of each column's error under the ordered Gram."""
    error = task.weight - columns.steps(task.ordered.block_of).spread(columns.scale) * columns.p
    return np.einsum("gkm,gkm->gm", error, task.ordered.gram @ error)


def residual(task: Task, columns: Columns) -> np.ndarray:
    """``H (W - W')``, ``(G, K, M)``."""
    error = task.weight - columns.steps(task.ordered.block_of).spread(columns.scale) * columns.p
    return task.ordered.gram @ error


def descend(task: Task, columns: Columns, backend: Backend, sweeps: int) -> Columns:
    """Sweep and refit in turn until nothing moves, at most `sweeps` times."""
    p, scale = columns.p.copy(), columns.scale.copy()
    todo = np.arange(p.shape[2])
    part, here = task, Columns(p, scale, columns.lo, columns.hi)
    rest = residual(part, here)
    for turn in range(sweeps):
        moved = backend.sweep(part.ordered.gram, rest, here.p, here.steps(part.ordered.block_of))
        p[:, :, todo] = here.p
        if scale.shape[1] > 1 and turn not in BLOCK_REFITS and moved.any():
            continue
        fresh = refit(part, here, rest)
        turned = np.abs(fresh / here.scale - 1).max(axis=1) > STILL
        going = (moved | turned).any(axis=0)
        rest = after_refit(part, here, fresh, rest)
        here = replace(here, scale=fresh)
        scale[:, :, todo] = here.scale
        if not going.any():
            break
        if task.share == 0 and going.mean() < 0.8:
            keep = np.flatnonzero(going)
            todo, part, here, rest = todo[keep], part.take(keep), here.take(keep), np.take(rest, keep, 2)
    return Columns(p, scale, columns.lo, columns.hi)


def refit(task: Task, columns: Columns, rest: np.ndarray) -> np.ndarray:
    """The best scales for these codes, ``(G, B, M)``."""
    order = task.ordered.order
    if columns.scale.shape[1] > 1:
        gram = restored(restored(task.ordered.gram, order).swapaxes(1, 2), order)
        weight, p = restored(task.weight, order), restored(columns.p, order)
        return block_refit(gram, weight, p, columns.scale, task.block).astype(columns.scale.dtype)
    top = np.einsum("gkm,gkm->gm", columns.p, task.pull)
    bottom = (top - np.einsum("gkm,gkm->gm", columns.p, rest)) / columns.scale[:, 0]
    return ratio_refit(columns.scale, top, bottom, task.share).astype(columns.scale.dtype)


def after_refit(task: Task, columns: Columns, fresh: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The residual at the scales `fresh`; with one scale to a column no product with the Gram is needed."""
    if columns.scale.shape[1] > 1:
        return residual(task, replace(columns, scale=fresh))
    return task.pull - (fresh / columns.scale) * (task.pull - rest)


def settle(task: Task, columns: Columns, backend: Backend) -> Columns:
    """Sweep at fixed scales until no single code change lowers the loss."""
    p = columns.p.copy()
    todo = np.arange(p.shape[2])
    here = replace(columns, p=p.copy())
    part, rest = task, residual(task, here)
    for _ in range(SWEEPS_AT_FIXED_SCALE):
        moved = backend.sweep(part.ordered.gram, rest, here.p, here.steps(part.ordered.block_of)).any(axis=0)
        p[:, :, todo] = here.p
        if not moved.any():
            break
        keep = np.flatnonzero(moved)
        todo, part, here, rest = todo[keep], part.take(keep), here.take(keep), np.take(rest, keep, 2)
    return replace(columns, p=p)
