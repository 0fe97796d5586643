"""Moves of two codes at once, for columns short enough to try every pair.

A sweep stops where no single code change helps; two neighbouring codes moved by one step each often still do.
With steps ``s_i = scale_i * delta_i``, ``delta = +-1``, and the residual ``R = H (w - w')``, the loss
changes by ``s_i^2 H_ii + s_j^2 H_jj + 2 s_i s_j H_ij - 2 s_i R_i - 2 s_j R_j``.
"""

from dataclasses import replace

import numpy as np

from comq_onnx.solve.descent import Columns, Task, residual

ROWS = 32
"""Longest column whose pairs are tried: a 5 x 5 kernel is 25, and the work grows as the square."""
MOVES = 200
"""Bound on the pairs moved in one column."""
GAIN = 1e-9
"""Part of the diagonal's change that a move must gain, so that rounding errors never count as a gain."""


def settle_pairs(task: Task, columns: Columns) -> Columns:
    """Move the best pair of each column until none lowers its loss."""
    here = replace(columns, p=columns.p.copy())
    rest = residual(task, here)
    scale, lo, hi = _cells(task, here)
    for _ in range(MOVES):
        gain, i, j, di, dj = _best_pair(task, here.p, rest, (scale, lo, hi))
        g, m = np.nonzero(gain > 0)
        if not g.size:
            break
        for row, delta in ((i[g, m], di[g, m]), (j[g, m], dj[g, m])):
            here.p[g, row, m] += delta
            change = (scale[g, row, m] * delta)[:, None] * task.ordered.gram[g, :, row]
            rest[g, :, m] -= change
    return here


def _cells(task: Task, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    steps = columns.steps(task.ordered.block_of)
    return steps.spread(steps.scale), steps.spread(steps.lo), steps.spread(steps.hi)


def _best_pair(
    task: Task, p: np.ndarray, rest: np.ndarray, cells: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each column the gain of its best pair (0 if none gains), its two rows and their moves."""
    scale, lo, hi = cells
    groups, rows, cols = p.shape
    first, second = np.triu_indices(rows, 1)
    diagonal = np.diagonal(task.ordered.gram, axis1=1, axis2=2)[:, :, None]
    square = scale**2 * diagonal
    best = np.zeros((groups, cols))
    found = [np.zeros((groups, cols), dtype=np.int64) for _ in range(4)]
    if not first.size:
        return best, found[0], found[1], found[2], found[3]
    cross = task.ordered.gram[:, first, second, None] * scale[:, first] * scale[:, second]
    # One loss per single move; a pair costs the sum of two and their cross term.
    single = {
        d: np.where((p + d >= lo) & (p + d <= hi), square - 2 * d * scale * rest, np.inf) for d in (-1, 1)
    }
    floor = GAIN * (square[:, first] + square[:, second])
    for di, dj in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        gain = -(single[di][:, first] + single[dj][:, second] + 2 * di * dj * cross) - floor
        at = gain.argmax(axis=1)
        value = np.take_along_axis(gain, at[:, None], 1)[:, 0]
        better = value > best
        best = np.where(better, value, best)
        for kept, fresh in zip(found, (first[at], second[at], di, dj), strict=True):
            np.copyto(kept, fresh, where=better)
    return best, found[0], found[1], found[2], found[3]
