"""The loops of `protocol` compiled for the CPU by numba: one column at a time, what does not change skipped.

A column, its residual and its steps are contiguous and stay in the first caches; after rounding with feedback
few codes of a column change in a sweep, and only those cost a pass over a Gram row. Rounding with feedback
itself changes every code, so it is blocked: the compiled loop inside a block of rows, a matrix product behind
it. Kernels hold no lock, so columns may be cut over threads, and no value depends on how they were cut.
"""

# The checker sees the bodies of intrinsics and not the functions they become.
# pyright: reportCallIssue=false

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import scipy.linalg

from comq_onnx.backends.instructions import LANES, any_beyond, nearest
from comq_onnx.backends.numpy_ import GAIN, REPAIRS, STILL
from comq_onnx.backends.protocol import Steps

xp = np

ROWS_PER_BLOCK = 32
"""Rows between two matrix products in `feedback`."""
NEVER = 1e30
"""A threshold that no residual reaches, for rows that count for nothing."""


class _Steps(NamedTuple):
    """`protocol.Steps` in a form that compiled functions take."""

    scale: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    block_of: np.ndarray


class _Cells(NamedTuple):
    """Every row of one column, ``(K,)`` each."""

    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    up: np.ndarray
    """Residual above which the row moves up"""
    down: np.ndarray
    """Residual below which it moves down"""


def _taken(steps: Steps) -> _Steps:
    return _Steps(steps.scale, steps.lo, steps.hi, steps.block_of)


_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")
# Sums of many terms are vectorised, in an order that depends on the processor and on nothing else.
_summing = numba.njit(
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nnan", "ninf", "nsz", "arcp"},
)


def cholesky(gram: np.ndarray) -> np.ndarray:
    """See `protocol.Backend.cholesky`; LAPACK without a copy to the other order of storage."""
    if gram.shape[1] <= 64:
        return np.linalg.cholesky(gram)
    potrf = scipy.linalg.get_lapack_funcs("potrf", dtype=gram.dtype)
    for matrix in gram:
        # The transposed view of a symmetric matrix is the matrix itself, in LAPACK's order of storage.
        _, info = potrf(matrix.T, lower=0, overwrite_a=1, clean=0)
        if info != 0:
            raise np.linalg.LinAlgError(f"leading minor {info} is not positive")
    return gram


def rounding_errors(
    weight: np.ndarray, importance: np.ndarray, steps: Steps, factors: Sequence[float]
) -> np.ndarray:
    """See `protocol.Backend.rounding_errors`."""
    starts = np.flatnonzero(np.diff(steps.block_of[0], prepend=-1, append=-1))
    out = np.empty((len(factors), *steps.scale.shape), weight.dtype)
    shrink = np.asarray(factors, weight.dtype)
    _rounding_errors(weight, importance, _taken(steps), starts, shrink, out)
    return out


@_summing
def _rounding_errors(weight, importance, steps, starts, factors, out):
    groups, cols, _ = weight.shape
    for g in range(groups):
        for b in range(len(starts) - 1):
            # Slices, because an index that might be negative keeps a loop from being vectorised.
            h = importance[g, starts[b] : starts[b + 1]]
            for m in range(cols):
                w = weight[g, m, starts[b] : starts[b + 1]]
                low, high = _bounds(steps, g, m, b)
                for f in range(len(factors)):
                    d = steps.scale[g, m, b] * factors[f]
                    total, inverse = d * 0, 1 / d
                    for k in range(len(w)):
                        error = w[k] - d * min(max(nearest(w[k] * inverse), low), high)
                        total += h[k] * error * error
                    out[f, g, m, b] = total


def feedback(coupling: np.ndarray, weight: np.ndarray, steps: Steps) -> np.ndarray:
    """See `protocol.Backend.feedback`."""
    rows = weight.shape[2]
    goal, error, p = weight.copy(), weight.copy(), np.empty_like(weight)
    for start in range(0, rows, ROWS_PER_BLOCK):
        stop = min(start + ROWS_PER_BLOCK, rows)
        _feedback(coupling, goal, error, p, _taken(steps), (start, stop))
        if stop < rows:
            goal[:, :, stop:] += error[:, :, start:stop] @ coupling[:, start:stop, stop:]
    return p


@_compiled
def _feedback(coupling, goal, error, p, steps, rows):
    """Round the rows of one block; `error` holds the weights on entry."""
    groups, cols, _ = goal.shape
    start, stop = rows
    for g in range(groups):
        for m in range(cols):
            wish = goal[g, m]
            for i in range(start, stop):
                b = steps.block_of[g, i] if steps.scale.shape[2] > 1 else 0
                d = steps.scale[g, m, b]
                low, high = _bounds(steps, g, m, b)
                step = min(max(nearest(wish[i] / d), low), high)
                p[g, m, i] = step
                miss = error[g, m, i] - d * step
                error[g, m, i] = miss
                row, rest = coupling[g, i, i + 1 : stop], wish[i + 1 : stop]
                for j in range(len(rest)):
                    rest[j] += miss * row[j]


def descend(
    gram: np.ndarray,
    pull: np.ndarray,
    residual: np.ndarray,
    p: np.ndarray,
    steps: Steps,
    sweeps: int,
    refit: bool,
) -> np.ndarray:
    """See `protocol.Backend.descend`."""
    moved = np.zeros(p.shape[:2], dtype=np.bool_)
    _descend(gram, pull, (residual, p), _taken(steps), (sweeps, refit), moved)
    return moved


@_compiled
def _descend(gram, pull, state, steps, how, ever):
    (residual, p), (sweeps, refit) = state, how
    groups, cols, _ = p.shape
    for g in range(groups):
        diagonal = _diagonal(gram[g])
        for m in range(cols):
            rest, codes = residual[g, m], p[g, m]
            cells = _cells(steps, g, m, codes, diagonal)
            for _ in range(sweeps):
                moved, _ = _sweep(gram[g], diagonal, rest, codes, cells)
                ever[g, m] |= moved
                turned = False
                if refit:
                    old = steps.scale[g, m, 0]
                    fresh = _best_scale(codes, pull[g, m], rest, old)
                    ratio = fresh / old
                    turned = abs(ratio - 1) > STILL
                    if turned:
                        for k in range(len(rest)):
                            rest[k] = pull[g, m, k] - ratio * (pull[g, m, k] - rest[k])
                        steps.scale[g, m, 0] = fresh
                        cells = _cells(steps, g, m, codes, diagonal)
                if not (moved or turned):
                    break


@_compiled
def _diagonal(gram):
    result = np.empty(len(gram), gram.dtype)
    for k in range(len(gram)):
        result[k] = gram[k, k]
    return result


@_compiled
def _bounds(steps, g, m, b):
    if steps.lo.size == 1:
        return steps.lo[0, 0, 0], steps.hi[0, 0, 0]
    return steps.lo[g, m, b], steps.hi[g, m, b]


@_compiled
def _cells(steps, g, m, codes, diagonal):
    """What binds every row of one column at its codes."""
    empty = np.empty((5, len(codes)), codes.dtype)
    cells = _Cells(empty[0], empty[1], empty[2], empty[3], empty[4])
    for k in range(len(codes)):
        b = steps.block_of[g, k] if steps.scale.shape[2] > 1 else 0
        cells.scale[k] = steps.scale[g, m, b]
        cells.low[k], cells.high[k] = _bounds(steps, g, m, b)
        _bind(k, codes, diagonal, cells)
    return cells


@_compiled
def _bind(k, codes, diagonal, cells):
    """Residuals beyond which row k moves; out of reach where it cannot move or counts for nothing."""
    half = cells.scale[k] * diagonal[k] * diagonal.dtype.type(0.5)
    cells.up[k] = half if codes[k] < cells.high[k] and half > 0 else NEVER
    cells.down[k] = -half if codes[k] > cells.low[k] and half > 0 else -NEVER


@_compiled
def _sweep(gram, diagonal, rest, codes, cells):
    """One sweep of one column: whether a code moved, and the change of the loss."""
    rows = len(codes)
    moved, change = False, 0.0
    for start in range(0, rows, LANES):
        stop = min(start + LANES, rows)
        if stop - start == LANES and not any_beyond(rest, cells.up, cells.down, start):
            continue
        for i in range(start, stop):
            if rest[i] > cells.up[i] or rest[i] < cells.down[i]:
                old, d = codes[i], cells.scale[i]
                step = old + nearest(rest[i] / (diagonal[i] * d))
                codes[i] = min(max(step, cells.low[i]), cells.high[i])
                if codes[i] != old:
                    moved = True
                    change += _move(gram[i], diagonal[i], rest, i, d * (codes[i] - old))
                    _bind(i, codes, diagonal, cells)
    return moved, change


@_compiled
def _move(row, diagonal, rest, i, amount):
    """Add `amount` to weight i of a column: the residual follows. Returns the change of the loss."""
    change = amount * (amount * diagonal - 2 * rest[i])
    for j in range(len(rest)):
        rest[j] -= amount * row[j]
    return np.float64(change)


@_summing
def _best_scale(codes, pull, rest, old):
    top, slack = 0.0, 0.0
    for k in range(len(codes)):
        top += codes[k] * pull[k]
        slack += codes[k] * rest[k]
    bottom = (top - slack) / old
    if not (bottom > 0 and top > 0):
        return old
    fresh = codes.dtype.type(top / bottom)
    return fresh if fresh > 0 and np.isfinite(fresh) else old


def kick(gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps, picks: np.ndarray) -> None:
    """See `protocol.Backend.kick`."""
    _kick(gram, residual, p, _taken(steps), picks)


@_compiled
def _kick(gram, residual, p, steps, picks):
    groups, cols, rows = p.shape
    rest, codes = np.empty(rows, p.dtype), np.empty(rows, p.dtype)
    up, down = np.empty(rows, p.dtype), np.empty(rows, p.dtype)
    for g in range(groups):
        diagonal = _diagonal(gram[g])
        live = (diagonal > 0).sum()
        if live == 0:
            continue
        for m in range(cols):
            cells = _cells(steps, g, m, p[g, m], diagonal)
            floor = GAIN * cells.scale[0] * cells.scale[0] * diagonal[0]
            for turn in range(len(picks)):
                rest[:], codes[:], up[:], down[:] = residual[g, m], p[g, m], cells.up, cells.down
                change = _pushed(gram[g], diagonal, rest, codes, cells, picks[turn] * live)
                for _ in range(REPAIRS):
                    moved, gained = _sweep(gram[g], diagonal, rest, codes, cells)
                    change += gained
                    if not moved:
                        break
                if change < -floor:
                    residual[g, m], p[g, m] = rest, codes
                else:
                    cells.up[:], cells.down[:] = up, down


@_compiled
def _pushed(gram, diagonal, rest, codes, cells, places):
    """Move the rows at `places` by one step each against the loss; returns its change."""
    change = 0.0
    for place in places:
        i = int(place)
        step = 1 if rest[i] > 0 else -1
        if not cells.low[i] <= codes[i] + step <= cells.high[i]:
            step = -step
        if cells.low[i] <= codes[i] + step <= cells.high[i]:
            codes[i] += step
            change += _move(gram[i], diagonal[i], rest, i, cells.scale[i] * step)
            _bind(i, codes, diagonal, cells)
    return change


def sweep_ordered(
    gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps, order: np.ndarray
) -> None:
    """See `protocol.Backend.sweep_ordered`."""
    _sweep_ordered(gram, residual, p, _taken(steps), order)


@_compiled
def _sweep_ordered(gram, residual, p, steps, order):
    groups, cols, _ = p.shape
    for g in range(groups):
        diagonal = _diagonal(gram[g])
        for m in range(cols):
            rest, codes = residual[g, m], p[g, m]
            cells = _cells(steps, g, m, codes, diagonal)
            for i in order[g, m]:
                d, old = cells.scale[i], codes[i]
                slope = rest[i] / (diagonal[i] * d) if diagonal[i] > 0 else 0.0
                step = min(max(nearest(old + slope), cells.low[i]), cells.high[i])
                if step != old:
                    codes[i] = step
                    _move(gram[g, i], diagonal[i], rest, i, d * (step - old))
