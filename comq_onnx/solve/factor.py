"""The Gram as a solver needs it: damped, in the order of visit, and factored for rounding with feedback.

With ``H = U U^T``, U upper triangular, the loss of one column is
``e^T H e = sum_i (U_ii e_i + sum_{j<i} U_ji e_j)^2``, ``e = w - w'``: rounding row i towards
``w_i + sum_{j<i} (U_ji / U_ii) e_j`` makes the i-th term as small as the grid allows (Babai's nearest plane).
This is GPTQ (arXiv 2210.17323) without the inverse: its upper Cholesky factor of ``H^-1`` is ``U^-1``, and
adding errors forward along the rows of that factor gives the same wishes (QuIP, arXiv 2307.13304, theorem 6).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from comq_onnx.backends.protocol import Array, Backend
from comq_onnx.solve.pose import Posed

ONE_BY_ONE = 64
"""Matrices larger than this are reordered by whole rows and then columns, smaller ones in one go."""
TRIES = 8
"""Damping grows tenfold at each failed factorisation: from 1e-9 it is past 0.1 after eight."""


@dataclass(frozen=True)
class Ordered:
    """A posed problem with its rows in the order of visit."""

    order: Array
    """``(G, K)``: row visited at each turn"""
    gram: Array
    """``(G, K, K)``, damped; rows and columns of dead inputs are 0"""
    coupling: Array
    """``(G, K, K)``, read above the diagonal only: ``U[j, i] / U[i, i]``"""
    block_of: Array
    """``(G, K)``"""
    natural: Array | None
    """`gram` in natural order, where a column has several scales: their refit needs it"""
    note: str
    added: Array | None = None
    """``(G, K)`` in natural order: what damping added to the diagonal"""

    def part(self, groups: slice | np.ndarray) -> "Ordered":
        """Some groups, no columns: a piece brings its own weights."""
        natural = None if self.natural is None else self.natural[groups]
        gram, coupling_ = self.gram[groups], self.coupling[groups]
        added = None if self.added is None else self.added[groups]
        return Ordered(self.order[groups], gram, coupling_, self.block_of[groups], natural, self.note, added)


def ordered(posed: Posed, damping: Array, backend: Backend) -> Ordered:
    """Rows by falling diag(Gram), with ``damping * mean(diag)`` added to the diagonal of live inputs.

    `damping` is ``(G,)``; it is raised where a Gram is not positive definite with it.
    """
    xp = posed.xp
    order = falling(posed.diagonal, xp)
    gram = reordered(posed.gram, order, xp)
    live = xp.take_along_axis(posed.live, order, 1)
    gram, coupling_, used = _factored(gram, live, xp.asarray(damping), backend)
    raised = used > xp.asarray(damping)
    note = f"the Gram is singular: damping raised to {float(used.max()):.1e}" if bool(raised.any()) else ""
    added = used[:, None] * posed.live
    return on_grid(Ordered(order, gram, coupling_, order, None, note, added), posed)


def on_grid(problem: Ordered, posed: Posed) -> Ordered:
    """`problem`, which is of the same Gram, for the blocks of `posed`."""
    xp = posed.xp
    block_of = xp.ascontiguousarray(xp.take_along_axis(posed.block_of, problem.order, 1))
    several = posed.block < posed.weight.shape[2]
    natural = add_diagonal(posed.gram, problem.added, xp) if several else None
    return replace(problem, block_of=block_of, natural=natural)


def falling(diagonal: Array, xp: Any) -> Array:
    """``(G, K)``: the rows by falling diagonal; equal ones, and so the dead, in natural order."""
    return xp.argsort(-diagonal, axis=1, kind="stable")


def reordered(gram: Array, order: Array, xp: Any) -> Array:
    """``(G, K, K)`` with rows and columns in `order`."""
    if gram.shape[1] > ONE_BY_ONE:
        return xp.stack([matrix[rows][:, rows] for matrix, rows in zip(gram, order, strict=True)])
    group = xp.arange(len(gram))[:, None, None]
    return gram[group, order[:, :, None], order[:, None, :]]


def visited(values: Array, order: Array, xp: Any) -> Array:
    """``(G, M, K)`` in natural order, in the order of visit."""
    if len(values) == 1:
        return xp.take(values, order[0], axis=2)  # several times faster
    return xp.take_along_axis(values, order[:, None, :], axis=2)


def restored(values: Array, order: Array, xp: Any) -> Array:
    """``(G, M, K)`` in the order of visit, back in natural order."""
    return visited(values, xp.argsort(order, axis=1), xp)


def _factored(gram: Array, live: Array, damping: Array, backend: Backend) -> tuple[Array, Array, Array]:
    """Damped Gram, its coupling, and the damping it took to be positive definite, ``(G,)``."""
    xp, used = backend.xp, damping
    for attempt in range(TRIES + 1):
        try:
            return add_diagonal(gram, used[:, None] * live, xp), coupling(gram, live, used, backend), used
        except np.linalg.LinAlgError:
            used = xp.maximum(10 * used, 1e-9) if attempt + 1 < TRIES else xp.ones_like(used)
    raise np.linalg.LinAlgError("a Gram with its own mean diagonal added is not positive definite")


def add_diagonal(gram: Array, values: Array, xp: Any) -> Array:
    """A copy of `gram` ``(G, K, K)`` with `values` ``(G, K)`` added to its diagonal."""
    result = xp.array(gram, order="C")
    rows = xp.arange(gram.shape[1])
    result[:, rows, rows] += values
    return result


def coupling(gram: Array, live: Array, damping: Array, backend: Backend) -> Array:
    """``U[j, i] / U[i, i]`` of ``gram + damping I = U U^T`` above the diagonal, ``(G, K, K)``; garbage below.

    `damping` ``(G,)`` goes to the `live` rows; the others, which are 0, get 1.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where a Gram is not positive definite.
    """
    xp = backend.xp
    added = xp.where(live, damping[:, None], 1)[:, ::-1]
    lower = backend.cholesky(add_diagonal(gram[:, ::-1, ::-1], added, xp))
    pivots = xp.diagonal(lower, axis1=1, axis2=2)[:, ::-1]
    if not bool((xp.isfinite(pivots) & (pivots > 0)).all()):
        raise np.linalg.LinAlgError("a pivot is not a positive number")
    result = xp.empty(gram.shape, gram.dtype)
    return xp.divide(lower[:, ::-1, ::-1], pivots[:, None, :], out=result)
