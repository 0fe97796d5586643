"""Scales and zero points: absmax, search, and the closed-form refit.

Weights are ``(G, M, K)`` in natural row order, scales ``(G, M, B)``. `share` is the number of columns at the
end of the column axis that hold one scale together: 0 for none, M for a per-tensor grid (several starts side
by side are several runs of M columns).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from comq_onnx.backends.protocol import Array, Backend, Steps
from comq_onnx.solve.pose import Posed

LOWEST_SHRINK = {8: 0.5, 7: 0.5, 6: 0.4, 5: 0.3, 4: 0.25, 3: 0.15, 2: 0.08}
"""Smallest part of absmax that the search tries, by bits."""
SHRINKS = 64


def spread(per_block: Array, posed: Posed) -> Array:
    """``(G, M, B)`` repeated to ``(G, M, K)``; as it is where one value serves all rows."""
    if per_block.shape[2] == 1:
        return per_block
    return posed.xp.repeat(per_block, posed.block, axis=2)[:, :, : posed.weight.shape[2]]


def absmax(posed: Posed, live_only: bool) -> tuple[Array, Array | None]:
    """The scale that just reaches the largest weight, and the zero point that goes with it.

    Symmetric: ``max|w| / (2**(bits-1) - 1)``. Asymmetric: ``(max - min) / (2**bits - 1)`` over the range
    widened to hold 0, so that the zero point ``round(-min / scale)`` is a code. With `live_only` the weights
    of dead inputs do not count, unless a block has no others.
    """
    xp, grid, weight = posed.xp, posed.grid, posed.weight
    if live_only and not bool(posed.live.all()):
        alive = blocked(posed.live[:, None], posed.block, False, xp)
        counted = alive | ~alive.any(axis=3, keepdims=True)
        parts = blocked(weight, posed.block, 0, xp) * counted
    else:
        parts = blocked(weight, posed.block, 0, xp)
    low, high = xp.minimum(parts.min(axis=3), 0), xp.maximum(parts.max(axis=3), 0)
    if posed.tied:
        low, high = xp.full_like(low, low.min()), xp.full_like(high, high.max())
    reach = xp.maximum(-low, high) if grid.symmetric else high - low
    scale = xp.where(reach > 0, reach, 1).astype(weight.dtype) / (
        grid.hi if grid.symmetric else grid.hi - grid.lo
    )
    if grid.symmetric:
        return scale, None
    return scale, xp.clip(xp.rint(-low / scale), grid.lo, grid.hi)


def blocked(values: Array, block: int, fill: Any, xp: Any) -> Array:
    """``(G, M, K)`` as ``(G, M, B, block)``, the ragged end filled up."""
    groups, cols, rows = values.shape
    if rows % block:
        values = xp.pad(values, ((0, 0), (0, 0), (0, -rows % block)), constant_values=fill)
    return values.reshape(groups, cols, -1, block)


def searched(
    posed: Posed, backend: Backend, factors: Sequence[float] | None = None
) -> tuple[Array, Array | None]:
    """The scale (and zero point) whose rounding errors, weighted by diag(Gram), are smallest.

    Tries shrink factors of absmax, `SHRINKS` of them down to `LOWEST_SHRINK` unless `factors` are given, and
    on asymmetric grids the zero points around absmax's.
    """
    xp = posed.xp
    top, zero = absmax(posed, live_only=True)
    importance = xp.ascontiguousarray(posed.diagonal)
    shrinks = np.geomspace(1.0, LOWEST_SHRINK[posed.grid.bits], SHRINKS)
    shrinks = shrinks if factors is None else np.array(factors)
    best_scale, best_zero, best = top, zero, xp.full(top.shape, np.inf)
    for zero_point in _zero_points(zero, posed):
        steps = Steps(top, *bounds(zero_point, posed), posed.block_of)
        errors = backend.rounding_errors(posed.weight, importance, steps, shrinks.tolist())
        if posed.tied:
            errors = xp.broadcast_to(
                errors.sum(axis=(1, 2, 3), keepdims=True, dtype=np.float64), errors.shape
            )
        at = errors.argmin(axis=0)
        error = xp.take_along_axis(errors, at[None], axis=0)[0]
        better = error < best
        best = xp.where(better, error, best)
        scale = (top * xp.asarray(shrinks.astype(top.dtype))[at]).astype(top.dtype)
        best_scale = xp.where(better, scale, best_scale)
        if zero_point is not None:
            best_zero = xp.where(better, zero_point, best_zero)
    return best_scale, best_zero


def _zero_points(zero: Array | None, posed: Posed) -> list[Array | None]:
    if zero is None:
        return [None]
    grid = posed.grid
    around = (0, -1, 1) if grid.bits > 3 else (0, -1, 1, -2, 2)
    return [posed.xp.clip(zero + shift, grid.lo, grid.hi) for shift in around]


def bounds(zero: Array | None, posed: Posed) -> tuple[Array, Array]:
    """Bounds of the steps ``code - zero_point``; ``(1, 1, 1)`` on a symmetric grid."""
    grid, dtype = posed.grid, posed.weight.dtype
    if zero is None:
        return posed.xp.full((1, 1, 1), grid.lo, dtype), posed.xp.full((1, 1, 1), grid.hi, dtype)
    return grid.lo - zero, grid.hi - zero


def ratio_refit(scale: Array, top: Array, bottom: Array, share: int, xp: Any) -> Array:
    """``top / bottom``, the best scale of a column, or of `share` columns and all groups together if not 0.

    The scale update of COMQ (arXiv 2403.07134), per channel and per layer. `top` is ``p^T H W`` and `bottom`
    ``p^T H p``, both ``(G, M)``; the old `scale` ``(G, M, 1)`` is kept where the quotient is not positive.
    """
    if share:
        top, bottom = (_pool(values, share, xp) for values in (top, bottom))
    good = (bottom > 0) & (top > 0)
    fresh = xp.where(good, top / xp.where(good, bottom, 1), 0)
    return xp.where(xp.isfinite(fresh) & (fresh > 0), fresh, scale[:, :, 0])[:, :, None].astype(scale.dtype)


def _pool(values: Array, share: int, xp: Any) -> Array:
    groups, cols = values.shape
    sums = values.reshape(groups, cols // share, share).sum(axis=(0, 2))
    return xp.broadcast_to(xp.repeat(sums, share), (groups, cols))


def block_refit(gram: Array, pull: Array, p: Array, scale: Array, block: int, xp: Any = np) -> Array:
    """Best scales of all blocks of a column together: the normal equations ``A d = r`` of each column.

    ``A[b, c] = p_b^T H[b, c] p_c``, ``r[b] = p_b^T (H W)_b``, with `pull` ``H W`` and `p` the steps
    ``(G, M, K)`` in natural row order. Where the solution has a scale that is not positive, or A is singular,
    the equations are relaxed one scale at a time from the old ones instead, which never raises the loss
    either.
    """
    groups, cols, rows = p.shape
    blocks = scale.shape[2]
    steps = blocked(p, block, 0, xp)
    normal = xp.zeros((groups, cols, blocks, blocks))
    for b in range(blocks):
        inside = slice(b * block, min(b * block + block, rows))
        part = blocked(p[:, :, inside] @ gram[:, inside, b * block :], block, 0, xp)
        normal[:, :, b:, b] = (steps[:, :, b:] * part).sum(axis=3, dtype=np.float64)
        normal[:, :, b, b:] = normal[:, :, b:, b]
    right = (steps * blocked(pull, block, 0, xp)).sum(axis=3, dtype=np.float64)
    used = xp.diagonal(normal, axis1=2, axis2=3) > 0
    return _positive_solution(normal, right, scale.astype(np.float64), used, xp).astype(scale.dtype)


def _positive_solution(normal: Array, right: Array, old: Array, used: Array, xp: Any) -> Array:
    """Positive scales ``(G, M, B)`` that solve the normal equations, or lower their loss from `old`."""
    free = used[..., :, None] & used[..., None, :]
    blocks = normal.shape[-1]
    eye = xp.eye(blocks)
    system = xp.where(free, normal, 0) + eye * ~used[..., None]
    # A ridge far below float32's resolution keeps blocks with proportional responses solvable.
    ridge = 1e-11 * xp.trace(system, axis1=2, axis2=3)[..., None, None] / blocks
    answer = xp.linalg.solve(system + ridge * eye, xp.where(used, right, 0)[..., None])[..., 0]
    answer = xp.where(used, answer, old)
    lower = _quadratic(normal, right, answer) <= _quadratic(normal, right, old)
    good = (answer > 0).all(axis=-1) & xp.isfinite(answer).all(axis=-1) & lower
    if not bool(good.all()):
        answer[~good] = _relaxed(normal[~good], right[~good], old[~good], xp)
    return answer


def _quadratic(normal: Array, right: Array, scale: Array) -> Array:
    return ((normal @ scale[..., None])[..., 0] * scale - 2 * right * scale).sum(axis=-1)


def _relaxed(normal: Array, right: Array, old: Array, xp: Any, rounds: int = 20) -> Array:
    """One positive scale at a time; ``(n, B, B)``, ``(n, B)``, ``(n, B)``."""
    scale = old.copy()
    for _ in range(rounds):
        for b in range(scale.shape[-1]):
            pivot = normal[..., b, b]
            slope = right[..., b] - (normal[..., b, :] * scale).sum(axis=-1)
            moved = scale[..., b] + xp.where(pivot > 0, slope / xp.where(pivot > 0, pivot, 1), 0)
            scale[..., b] = xp.where(moved > 0, moved, scale[..., b])
    return scale
