"""The Gram as a solver needs it: damped, in the order of visit, and factored for rounding with feedback.

With ``H = U U^T``, U upper triangular, the loss of one column is
``e^T H e = sum_i (U_ii e_i + sum_{j<i} U_ji e_j)^2``, ``e = w - w'``: rounding row i towards
``w_i + sum_{j<i} (U_ji / U_ii) e_j`` makes the i-th term as small as the grid allows (Babai's nearest plane).
This is GPTQ (arXiv 2210.17323) without the inverse: its upper Cholesky factor of ``H^-1`` is ``U^-1``, and
adding errors forward along the rows of that factor gives the same wishes (QuIP, arXiv 2307.13304, theorem 6).
"""

from dataclasses import dataclass

import numpy as np

from comq_onnx.solve.pose import Posed

TRIES = 8
"""Damping grows tenfold at each failed factorisation: from 1e-9 it is past 0.1 after eight."""


@dataclass(frozen=True)
class Ordered:
    """A posed problem with its rows in the order of visit."""

    order: np.ndarray
    """``(G, K)``: row visited at each turn"""
    weight: np.ndarray
    """``(G, K, M)``"""
    gram: np.ndarray
    """``(G, K, K)``, damped; rows and columns of dead inputs are 0"""
    coupling: np.ndarray
    """``(G, K, K)``, strictly upper: ``U[j, i] / U[i, i]``"""
    block_of: np.ndarray
    """``(G, K)``"""
    note: str

    def as_type(self, dtype: type) -> "Ordered":
        weight, gram, coupling = (a.astype(dtype) for a in (self.weight, self.gram, self.coupling))
        return Ordered(self.order, weight, gram, coupling, self.block_of, self.note)


def ordered(posed: Posed, damping: np.ndarray) -> Ordered:
    """Rows by falling diag(Gram), with ``damping * mean(diag)`` added to the diagonal of live inputs.

    `damping` is ``(G,)``; it is raised where a Gram is not positive definite with it.
    """
    diagonal = np.diagonal(posed.gram, axis1=1, axis2=2)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    gram = np.take_along_axis(np.take_along_axis(posed.gram, order[:, :, None], 1), order[:, None, :], 2)
    live = np.take_along_axis(posed.live, order, 1)
    gram, coupling, used = _factored(gram, live, damping)
    raised = used > damping
    note = f"the Gram is singular: damping raised to {used.max():.1e}" if raised.any() else ""
    weight = np.take_along_axis(posed.weight, order[:, :, None], 1)
    return Ordered(order, weight, gram, coupling, np.take_along_axis(posed.block_of, order, 1), note)


def restored(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``(G, K, M)`` in the order of visit, back in natural order."""
    result = np.empty_like(values)
    np.put_along_axis(result, order[:, :, None], values, axis=1)
    return result


def _factored(gram: np.ndarray, live: np.ndarray, damping: np.ndarray) -> tuple[np.ndarray, ...]:
    """Damped Gram, its coupling, and the damping it took to be positive definite, ``(G,)``."""
    used = damping
    for _ in range(TRIES):
        damped = _add_diagonal(gram, used[:, None] * live)
        try:
            return damped, coupling(_add_diagonal(damped, ~live)), used
        except np.linalg.LinAlgError:
            used = np.maximum(10 * used, 1e-9)
    damped = _add_diagonal(gram, live * 1.0)
    return damped, coupling(_add_diagonal(damped, ~live)), np.ones_like(damping)


def _add_diagonal(gram: np.ndarray, values: np.ndarray) -> np.ndarray:
    result = gram.copy()
    rows = np.arange(gram.shape[1])
    result[:, rows, rows] += values
    return result


def coupling(gram: np.ndarray) -> np.ndarray:
    """``U[j, i] / U[i, i]`` of ``gram = U U^T``, strictly upper, ``(G, K, K)``.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where a Gram is not positive definite.
    """
    lower = np.linalg.cholesky(gram[:, ::-1, ::-1])
    upper = lower[:, ::-1, ::-1]
    return np.triu(upper / np.diagonal(upper, axis1=1, axis2=2)[:, None, :], 1)
