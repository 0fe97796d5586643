"""The loops of `protocol` in NumPy: the reference, and the solver where nothing faster is installed.

Blocked: inside a block of rows each row looks back at the changes of the block only, and the whole residual
is updated by one matrix product per block. Every function keeps the floating type of its arguments.
"""

import numpy as np

from comq_onnx.backends.protocol import Steps

ROWS_PER_BLOCK = 64
"""Rows between two updates of the whole residual."""


def feedback(coupling: np.ndarray, weight: np.ndarray, steps: Steps) -> np.ndarray:
    """See `protocol.Backend.feedback`."""
    rows = weight.shape[1]
    p = np.empty_like(weight)
    error = np.empty_like(weight)
    for start in range(0, rows, ROWS_PER_BLOCK):
        stop = min(start + ROWS_PER_BLOCK, rows)
        goal = weight[:, start:stop]
        if start:
            goal = goal + coupling[:, :start, start:stop].swapaxes(1, 2) @ error[:, :start]
        for i in range(start, stop):
            wish = goal[:, i - start]
            if i > start:
                wish = wish + _combine(coupling[:, start:i, i], error[:, start:i])
            scale, lo, hi = _row(steps, i)
            step = np.rint(wish / scale)
            np.maximum(step, lo, out=step)
            np.minimum(step, hi, out=step)
            p[:, i] = step
            error[:, i] = weight[:, i] - scale * step
    return p


def sweep(gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps) -> np.ndarray:
    """See `protocol.Backend.sweep`."""
    rows = p.shape[1]
    inverse = _inverse_diagonal(gram)
    moved = np.zeros((p.shape[0], p.shape[2]), dtype=bool)
    for start in range(0, rows, ROWS_PER_BLOCK):
        stop = min(start + ROWS_PER_BLOCK, rows)
        change = np.empty((p.shape[0], stop - start, p.shape[2]), dtype=p.dtype)
        for i in range(start, stop):
            slope = residual[:, i]
            if i > start:
                slope = slope - _combine(gram[:, i, start:i], change[:, : i - start])
            scale, lo, hi = _row(steps, i)
            old = p[:, i]
            step = slope * inverse[:, i, None]
            step /= scale
            np.rint(step, out=step)
            step += old
            np.maximum(step, lo, out=step)
            np.minimum(step, hi, out=step)
            np.multiply(step - old, scale, out=change[:, i - start])
            p[:, i] = step
        touched = change.any(axis=1)
        if touched.any():
            moved |= touched
            residual -= gram[:, :, start:stop] @ change
    return moved


def sweep_ordered(
    gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps, order: np.ndarray
) -> None:
    """See `protocol.Backend.sweep_ordered`.

    Columns visit different rows at the same time, so the changes of a block of visits are put into a matrix
    that is zero elsewhere, and that matrix is what the Gram multiplies: more flops than gathering Gram rows
    per column, in a product that runs tens of times faster.
    """
    groups, rows, cols = p.shape
    inverse = _inverse_diagonal(gram)
    group, col = np.arange(groups)[:, None], np.arange(cols)[None, :]
    flat, base = gram.reshape(-1), np.arange(groups)[:, None] * rows
    for start in range(0, rows, ROWS_PER_BLOCK):
        visits = np.ascontiguousarray(order[:, start : start + ROWS_PER_BLOCK].transpose(1, 0, 2))
        made = np.zeros((len(visits), groups, cols), dtype=p.dtype)
        for t, i in enumerate(visits):
            slope = residual[group, i, col]
            if t:
                slope = slope - np.einsum("tgm,tgm->gm", flat.take((base + i) * rows + visits[:t]), made[:t])
            block = steps.block_of[group, i]
            scale = steps.scale[group, block, col]
            old = p[group, i, col]
            wish = np.rint(old + slope * inverse[group, i] / scale)
            step = np.clip(wish, steps.lo[group, block, col], steps.hi[group, block, col])
            p[group, i, col] = step
            made[t] = (step - old) * scale
        change = np.zeros_like(p)
        change[group, visits, col] = made
        residual -= gram @ change


def _combine(coefficients: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``(G, j)`` coefficients of ``(G, j, M)`` rows: their sums ``(G, M)``."""
    if rows.shape[0] == 1:
        return coefficients @ rows[0]
    return np.einsum("gj,gjm->gm", coefficients, rows)


def _row(steps: Steps, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale and bounds ``(G, M)`` of row i."""
    if steps.scale.shape[1] == 1:
        return steps.scale[:, 0], steps.lo[:, 0], steps.hi[:, 0]
    group, block = np.arange(len(steps.block_of)), steps.block_of[:, i]
    return steps.scale[group, block], steps.lo[group, block], steps.hi[group, block]


def _inverse_diagonal(gram: np.ndarray) -> np.ndarray:
    """``(G, K)``: 1 / gram[i, i], and 0 for an input that never varies."""
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    return np.divide(1, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
