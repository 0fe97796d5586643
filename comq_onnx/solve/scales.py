"""Scales and zero points: absmax, search, and the closed-form refit.

Everything is in row layout and natural row order: weights ``(G, K, M)``, scales ``(G, B, M)``. `share` is the
number of columns at the end of the column axis that hold one scale together: 0 for none, M for a per-tensor
grid (several starts side by side are several runs of M columns).
"""

import numpy as np

from comq_onnx.grid import Grid, spread
from comq_onnx.solve.pose import Posed

LOWEST_SHRINK = {8: 0.5, 4: 0.25, 3: 0.15, 2: 0.08}
"""Smallest part of absmax that the search tries, by bits."""
SHRINKS = 64


def absmax(posed: Posed, live_only: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The scale that just reaches the largest weight, and the zero point that goes with it.

    Symmetric: ``max|w| / (2**(bits-1) - 1)``. Asymmetric: ``(max - min) / (2**bits - 1)`` over the range
    widened to hold 0, so that the zero point ``round(-min / scale)`` is a code. With `live_only` the weights
    of dead inputs do not count, unless a block has no others.
    """
    weight = posed.weight
    counted = np.broadcast_to(posed.live[:, :, None], weight.shape)
    if live_only:
        alone = ~np.logical_or.reduceat(posed.live, posed.starts, axis=1)
        counted = counted | spread(alone[:, :, None], weight.shape[1], posed.block)
        weight = np.where(counted, weight, 0)
    grid = posed.grid
    low = np.minimum(np.minimum.reduceat(weight, posed.starts, axis=1), 0)
    high = np.maximum(np.maximum.reduceat(weight, posed.starts, axis=1), 0)
    if posed.tied:
        low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
    reach = np.maximum(-low, high) if grid.symmetric else high - low
    scale = np.where(reach > 0, reach, 1.0) / (grid.hi if grid.symmetric else grid.hi - grid.lo)
    if grid.symmetric:
        return scale, None
    return scale, np.clip(np.rint(-low / scale), grid.lo, grid.hi)


def searched(posed: Posed) -> tuple[np.ndarray, np.ndarray | None]:
    """The scale (and zero point) whose rounding errors, weighted by diag(Gram), are smallest.

    Tries shrink factors of absmax and, on asymmetric grids, the zero points around absmax's.
    """
    top, zero = absmax(posed, live_only=True)
    importance = np.diagonal(posed.gram, axis1=1, axis2=2)[:, :, None]
    factors = np.geomspace(1.0, LOWEST_SHRINK[posed.grid.bits], SHRINKS)
    best_scale, best_zero = top, zero
    best = np.full(top.shape, np.inf)
    for zero_point in _zero_points(zero, posed.grid):
        for factor in factors:
            error = _weighted_error(posed, factor * top, zero_point, importance)
            better = error < best
            best = np.where(better, error, best)
            best_scale = np.where(better, factor * top, best_scale)
            if zero_point is not None and best_zero is not None:
                best_zero = np.where(better, zero_point, best_zero)
    return best_scale, best_zero


def _zero_points(zero: np.ndarray | None, grid: Grid) -> list[np.ndarray | None]:
    if zero is None:
        return [None]
    around = (0, -1, 1) if grid.bits > 3 else (0, -1, 1, -2, 2)
    return [np.clip(zero + shift, grid.lo, grid.hi) for shift in around]


def _weighted_error(
    posed: Posed, scale: np.ndarray, zero: np.ndarray | None, importance: np.ndarray
) -> np.ndarray:
    lo, hi = bounds(zero, posed.grid)
    rows, block = posed.weight.shape[1], posed.block
    steps = np.rint(posed.weight / spread(scale, rows, block))
    steps = np.clip(steps, spread(lo, rows, block), spread(hi, rows, block))
    steps *= spread(scale, rows, block)
    steps -= posed.weight
    np.square(steps, out=steps)
    steps *= importance
    error = np.add.reduceat(steps, posed.starts, axis=1)
    return np.full_like(error, error.sum()) if posed.tied else error


def bounds(zero: np.ndarray | None, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the steps ``code - zero_point``; ``(1, 1, 1)`` on a symmetric grid."""
    if zero is None:
        return np.full((1, 1, 1), float(grid.lo)), np.full((1, 1, 1), float(grid.hi))
    return grid.lo - zero, grid.hi - zero


def ratio_refit(scale: np.ndarray, top: np.ndarray, bottom: np.ndarray, share: int = 0) -> np.ndarray:
    """``top / bottom``, the best scale of a column (the scale update of COMQ, arXiv 2403.07134).

    `top` is ``p^T H W`` and `bottom` ``p^T H p``, both ``(G, M)``; the old `scale` ``(G, 1, M)`` is kept
    where the quotient is not a positive number.
    """
    if share:
        top, bottom = (_pool(values, share) for values in (top, bottom))
    good = (bottom > 0) & (top > 0)
    with np.errstate(over="ignore"):
        fresh = np.divide(top, bottom, out=scale[:, 0].copy(), where=good)
    return np.where(np.isfinite(fresh) & (fresh > 0), fresh, scale[:, 0])[:, None]


def _pool(values: np.ndarray, share: int) -> np.ndarray:
    groups, cols = values.shape
    sums = values.reshape(groups, cols // share, share).sum(axis=(0, 2))
    return np.broadcast_to(np.repeat(sums, share), (groups, cols))


def block_refit(
    gram: np.ndarray, weight: np.ndarray, p: np.ndarray, scale: np.ndarray, block: int
) -> np.ndarray:
    """Best scales of all blocks of a column together: the normal equations ``A d = r`` of each column.

    ``A[b, c] = p_b^T H[b, c] p_c``, ``r[b] = p_b^T (H W)_b``, with `p` the steps ``(G, K, M)`` in natural
    row order. Where the solution has a scale that is not positive, or A is singular, the equations are
    relaxed one scale at a time from the old ones instead, which never raises the loss either.
    """
    groups, rows, cols = p.shape
    blocks, ragged = -(-rows // block), -rows % block
    gram = np.pad(gram, ((0, 0), (0, ragged), (0, 0)))
    steps = np.pad(p, ((0, 0), (0, ragged), (0, 0))).reshape(groups, blocks, block, cols)
    normal = np.zeros((groups, cols, blocks, blocks))
    for b in range(blocks):
        inside = slice(b * block, min(b * block + block, rows))
        part = gram[:, b * block :, inside] @ p[:, inside]
        parts = part.reshape(groups, blocks - b, block, cols)
        normal[:, :, b:, b] = np.einsum("gbkm,gbkm->gmb", steps[:, b:], parts)
        normal[:, :, b, b:] = normal[:, :, b:, b]
    pull = gram @ weight
    right = np.einsum("gbkm,gbkm->gmb", steps, pull.reshape(steps.shape)).astype(np.float64)
    old = scale.swapaxes(1, 2)
    used = np.diagonal(normal, axis1=2, axis2=3) > 0
    fresh = _positive_solution(normal, right, old, used)
    return fresh.swapaxes(1, 2)


def _positive_solution(
    normal: np.ndarray, right: np.ndarray, old: np.ndarray, used: np.ndarray
) -> np.ndarray:
    """Positive scales ``(G, M, B)`` that solve the normal equations, or lower their loss from `old`."""
    free = used[..., :, None] & used[..., None, :]
    blocks = normal.shape[-1]
    system = np.where(free, normal, 0) + np.eye(blocks) * ~used[..., None]
    # A ridge far below float32's resolution keeps blocks with proportional responses solvable.
    ridge = 1e-11 * np.trace(system, axis1=2, axis2=3)[..., None, None] / blocks
    answer = np.linalg.solve(system + ridge * np.eye(blocks), np.where(used, right, 0)[..., None])[..., 0]
    answer = np.where(used, answer, old)
    lower = _quadratic(normal, right, answer) <= _quadratic(normal, right, old)
    good = (answer > 0).all(axis=-1) & np.isfinite(answer).all(axis=-1) & lower
    answer[~good] = _relaxed(normal[~good], right[~good], old[~good])
    return answer


def _quadratic(normal: np.ndarray, right: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return ((normal @ scale[..., None])[..., 0] * scale - 2 * right * scale).sum(axis=-1)


def _relaxed(normal: np.ndarray, right: np.ndarray, old: np.ndarray, rounds: int = 20) -> np.ndarray:
    """One positive scale at a time; ``(n, B, B)``, ``(n, B)``, ``(n, B)``."""
    scale = old.copy()
    for _ in range(rounds):
        for b in range(scale.shape[-1]):
            pivot = normal[..., b, b]
            slope = right[..., b] - (normal[..., b, :] * scale).sum(axis=-1)
            moved = scale[..., b] + np.divide(slope, pivot, out=np.zeros_like(slope), where=pivot > 0)
            scale[..., b] = np.where(moved > 0, moved, scale[..., b])
    return scale
