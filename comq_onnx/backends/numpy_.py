"""The loops of `protocol` in NumPy: the reference, and the solver where nothing faster is installed.

Row after row, all columns at once; inside a block of rows each row looks back at the changes of the block
only, and the whole residual is updated by one matrix product per block. Every function keeps the floating
type of its arguments.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from comq_onnx.backends.protocol import Steps

xp = np

ROWS_PER_BLOCK = 64
"""Rows between two updates of the whole residual."""
STILL = 1e-5
"""A scale that moves by less than this part of itself has settled."""
GAIN = 1e-6
"""Part of a step's own quadratic that a kick must gain, so that rounding errors never count as a gain."""
REPAIRS = 30
"""Sweeps after a kick at most; three or four are the rule."""


def cholesky(gram: np.ndarray) -> np.ndarray:
    """See `protocol.Backend.cholesky`."""
    return np.linalg.cholesky(gram)


def rounding_errors(
    weight: np.ndarray, importance: np.ndarray, steps: Steps, factors: Sequence[float]
) -> np.ndarray:
    """See `protocol.Backend.rounding_errors`."""
    tried = [replace(steps, scale=steps.scale * weight.dtype.type(factor)) for factor in factors]
    return np.stack([_rounding_error(weight, importance, one) for one in tried])


def _rounding_error(weight: np.ndarray, importance: np.ndarray, steps: Steps) -> np.ndarray:
    scale, lo, hi = (steps.spread(values) for values in (steps.scale, steps.lo, steps.hi))
    error = np.rint(weight / scale)
    np.clip(error, lo, hi, out=error)
    error *= scale
    error -= weight
    np.square(error, out=error)
    error *= importance[:, None]
    starts = np.flatnonzero(np.diff(steps.block_of[0], prepend=-1))
    return np.add.reduceat(error, starts, axis=2)


def feedback(coupling: np.ndarray, weight: np.ndarray, steps: Steps) -> np.ndarray:
    """See `protocol.Backend.feedback`."""
    rows = weight.shape[2]
    p, error = np.empty_like(weight), np.empty_like(weight)
    for start in range(0, rows, ROWS_PER_BLOCK):
        stop = min(start + ROWS_PER_BLOCK, rows)
        goal = weight[:, :, start:stop] + error[:, :, :start] @ coupling[:, :start, start:stop]
        for i in range(start, stop):
            wish = goal[:, :, i - start] + _combine(error[:, :, start:i], coupling[:, start:i, i])
            scale, lo, hi = _row(steps, i)
            p[:, :, i] = np.clip(np.rint(wish / scale), lo, hi)
            error[:, :, i] = weight[:, :, i] - scale * p[:, :, i]
    return p


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
    ever = np.zeros(p.shape[:2], dtype=bool)
    going = np.ones(p.shape[:2], dtype=bool)
    for _ in range(sweeps):
        moved = _sweep(gram, residual, p, steps, going)
        ever |= moved
        going = moved.copy()
        if refit:
            going |= _refit(pull, residual, p, steps.scale)
        if not going.any():
            break
    return ever


def _sweep(
    gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps, going: np.ndarray
) -> np.ndarray:
    """One sweep over the columns that are `going`; which of them moved, ``(G, M)``."""
    rows = p.shape[2]
    inverse = _inverse_diagonal(gram)
    moved = np.zeros(p.shape[:2], dtype=bool)
    for start in range(0, rows, ROWS_PER_BLOCK):
        stop = min(start + ROWS_PER_BLOCK, rows)
        change = np.zeros((*p.shape[:2], stop - start), dtype=p.dtype)
        for i in range(start, stop):
            slope = residual[:, :, i] - _combine(change[:, :, : i - start], gram[:, start:i, i])
            scale, lo, hi = _row(steps, i)
            old = p[:, :, i]
            step = np.clip(old + np.rint(slope * inverse[:, i, None] / scale), lo, hi)
            step = np.where(going, step, old)
            change[:, :, i - start] = (step - old) * scale
            p[:, :, i] = step
        touched = change.any(axis=2)
        if touched.any():
            moved |= touched
            residual -= change @ gram[:, start:stop]
    return moved


def _refit(pull: np.ndarray, residual: np.ndarray, p: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Put the best scale of each column into `scale`; which scales moved, ``(G, M)``."""
    old = scale[:, :, 0]
    top = np.einsum("gmk,gmk->gm", p, pull, dtype=np.float64)
    bottom = (top - np.einsum("gmk,gmk->gm", p, residual, dtype=np.float64)) / old
    good = (bottom > 0) & (top > 0)
    with np.errstate(over="ignore"):
        fresh = np.divide(top, bottom, out=old.astype(np.float64), where=good).astype(scale.dtype)
    fresh = np.where(np.isfinite(fresh) & (fresh > 0), fresh, old)
    ratio = fresh / old
    turned = np.abs(ratio - 1) > STILL
    ratio = np.where(turned, ratio, 1)[:, :, None]
    residual[:] = np.where(turned[:, :, None], pull - ratio * (pull - residual), residual)
    scale[:, :, 0] = np.where(turned, fresh, old)
    return turned


def kick(gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps, picks: np.ndarray) -> None:
    """See `protocol.Backend.kick`."""
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    live = (diagonal > 0).sum(axis=1)
    scale, lo, hi = (np.broadcast_to(steps.spread(v), p.shape) for v in (steps.scale, steps.lo, steps.hi))
    group = np.arange(len(p))
    for line in picks:
        rest, codes = residual.copy(), p.copy()
        change = np.zeros(p.shape[:2])
        for pick in line:
            row = (pick * live).astype(np.int64)
            d, here = scale[group, :, row], codes[group, :, row]
            step = np.where(rest[group, :, row] > 0, 1, -1).astype(p.dtype)
            step = np.where(
                (here + step > hi[group, :, row]) | (here + step < lo[group, :, row]), -step, step
            )
            step *= (here + step <= hi[group, :, row]) & (here + step >= lo[group, :, row])
            step *= (live > 0)[:, None]
            moved = d * step
            change += moved * (moved * diagonal[group, row, None] - 2 * rest[group, :, row])
            codes[group, :, row] += step
            rest -= moved[:, :, None] * gram[group, row][:, None]
        before = codes.copy(), rest.copy()
        descend(gram, rest, rest, codes, steps, REPAIRS, refit=False)
        change += _change(before, (codes, rest), scale)
        floor = GAIN * (scale[:, :, 0] ** 2) * diagonal[:, :1]
        better = (change < -floor)[:, :, None]
        residual[:] = np.where(better, rest, residual)
        p[:] = np.where(better, codes, p)


def _change(
    before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray], scale: np.ndarray
) -> np.ndarray:
    """Change of the loss between two (codes, residual) at the same scales: ``-(dW)^T (R0 + R1)``."""
    moved = scale * (after[0] - before[0])
    return -np.einsum("gmk,gmk->gm", moved, before[1] + after[1], dtype=np.float64)


def sweep_ordered(
    gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps, order: np.ndarray
) -> None:
    """See `protocol.Backend.sweep_ordered`. One visit of all columns at a time."""
    groups, cols, rows = p.shape
    inverse = _inverse_diagonal(gram)
    group, col = np.arange(groups)[:, None], np.arange(cols)[None, :]
    scale, lo, hi = (np.broadcast_to(steps.spread(v), p.shape) for v in (steps.scale, steps.lo, steps.hi))
    for t in range(rows):
        i = order[:, :, t]
        old, d = p[group, col, i], scale[group, col, i]
        wish = np.rint(old + residual[group, col, i] * inverse[group, i] / d)
        step = np.clip(wish, lo[group, col, i], hi[group, col, i])
        p[group, col, i] = step
        residual -= ((step - old) * d)[:, :, None] * gram[group, i]


def _combine(rows: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """``(G, M, j)`` rows times ``(G, j)`` coefficients: ``(G, M)``."""
    return (rows @ coefficients[:, :, None])[:, :, 0]


def _row(steps: Steps, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale and bounds of row i, ``(G, M)`` or what broadcasts to it."""
    return _at(steps, steps.scale, i), _at(steps, steps.lo, i), _at(steps, steps.hi, i)


def _at(steps: Steps, values: np.ndarray, i: int) -> np.ndarray:
    if values.shape[2] == 1:
        return values[:, :, 0]
    return values[np.arange(len(values)), :, steps.block_of[:, i]]


def _inverse_diagonal(gram: np.ndarray) -> np.ndarray:
    """``(G, K)``: 1 / gram[i, i], and 0 for an input that never varies."""
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    return np.divide(1, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
