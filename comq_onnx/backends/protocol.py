"""What a backend offers to the solvers: three loops over coordinates, and no policy.

Shapes, in every function. ``G`` groups, ``K`` rows (coordinates), ``B`` scales to a column, ``M`` columns.
Rows are given in the order in which they are to be visited. Codes are *steps* ``p = code - zero_point``, held
in the floating type of the computation, so that symmetric and asymmetric grids are one case: the zero point
lives in the bounds. Columns never interact, so several starts of one column may be passed as several columns.

A `Steps` record binds what does not change during a loop.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Steps:
    """Scales and bounds of the steps of a weight, in the order of visit.

    ``W[g, k, m] ~ scale[g, block_of[g, k], m] * p[g, k, m]`` with
    ``lo[g, b, m] <= p <= hi[g, b, m]``, ``b = block_of[g, k]``.
    """

    scale: np.ndarray
    """``(G, B, M)``, positive"""
    lo: np.ndarray
    """``(G, B, M)``"""
    hi: np.ndarray
    """``(G, B, M)``"""
    block_of: np.ndarray
    """``(G, K)`` integers"""

    def spread(self, per_block: np.ndarray) -> np.ndarray:
        """``(G, B, M)`` repeated to ``(G, K, M)``; a view of stride 0 where there is one block."""
        if per_block.shape[1] == 1:
            return np.broadcast_to(
                per_block, (per_block.shape[0], self.block_of.shape[1], per_block.shape[2])
            )
        return np.take_along_axis(per_block, self.block_of[:, :, None], axis=1)


class Backend(Protocol):
    """The loops that are written once per device."""

    def feedback(self, coupling: np.ndarray, weight: np.ndarray, steps: Steps) -> np.ndarray:
        """Round row after row, each towards what best cancels the error of the rows before it.

        `coupling` is ``(G, K, K)``, strictly upper: with ``H = U U^T``, U upper triangular, it holds
        ``U[j, i] / U[i, i]`` for j < i. Row i is rounded to the step nearest to
        ``weight[i] + sum_{j<i} coupling[j, i] * (weight[j] - scale p[j])``. Returns the steps ``(G, K, M)``.
        """
        ...

    def sweep(self, gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps) -> np.ndarray:
        """Visit every coordinate once and move it to the minimiser of its one-dimensional quadratic.

        ``p[i] <- clip(p[i] + rint(residual[i] / (scale[i] * gram[i, i])))`` with `residual` kept equal to
        ``gram (weight - scale p)``. Both `p` and `residual` are changed in place. Rows whose diagonal is 0
        are left alone. Returns which columns moved, ``(G, M)`` booleans.
        """
        ...

    def sweep_ordered(
        self, gram: np.ndarray, residual: np.ndarray, p: np.ndarray, steps: Steps, order: np.ndarray
    ) -> None:
        """As `sweep`, but column m visits the rows ``order[g, :, m]``, and steps need not be integers yet:
        ``p[i] <- clip(rint(p[i] + residual[i] / (scale[i] * gram[i, i])))``.
        """
        ...
