"""What a backend offers to the solvers: a few loops over coordinates, and no policy.

Shapes, in every function. ``G`` groups, ``M`` columns (output channels, or several starts of each), ``K``
rows (coordinates), ``B`` scales to a column. A column is contiguous: arrays of codes are ``(G, M, K)``. Rows
are given in the order in which they are to be visited. Codes are *steps* ``p = code - zero_point``, in the
floating type of the computation, so that symmetric and asymmetric grids are one case: the zero point lives in
the bounds. Columns never interact: any cut of the columns, on any number of threads, gives the same bits.

A `Steps` record binds what does not change during a loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = Any
"""An array of the backend's own kind: NumPy's, or CuPy's on a GPU."""


def on_host(values: Array) -> np.ndarray:
    """A NumPy array of what may lie on a GPU."""
    return values.get() if hasattr(values, "get") else values


@dataclass(frozen=True)
class Steps:
    """Scales and bounds of the steps of a weight, in the order of visit.

    ``W[g, m, k] ~ scale[g, m, block_of[g, k]] * p[g, m, k]`` with
    ``lo[g, m, b] <= p <= hi[g, m, b]``, ``b = block_of[g, k]``.
    """

    scale: np.ndarray
    """``(G, M, B)``, positive"""
    lo: np.ndarray
    """``(G, M, B)``, or ``(1, 1, 1)`` where all columns have the same bounds"""
    hi: np.ndarray
    """as `lo`"""
    block_of: np.ndarray
    """``(G, K)`` integers"""

    def spread(self, per_block: np.ndarray) -> np.ndarray:
        """``(G, M, B)`` repeated to ``(G, M, K)``; one that broadcasts to it where there is one block."""
        if per_block.shape[2] == 1:
            return per_block
        return np.take_along_axis(per_block, self.block_of[:, None], axis=2)


class Backend(Protocol):
    """The loops that are written once per device. Arguments named in place are changed in place."""

    xp: Any
    """The array library whose arrays it works on: `numpy` or `cupy`."""

    def cholesky(self, gram: Array) -> Array:
        """Lower factor ``(G, K, K)`` of positive definite matrices; what lies above it is undefined.

        `gram` is used up. `numpy.linalg.LinAlgError` where one is not positive definite.
        """
        ...

    def rounding_errors(
        self, weight: Array, importance: Array, steps: Steps, factors: Sequence[float]
    ) -> Array:
        """Errors of rounding to nearest at each factor times the scales, per block, ``(F, G, M, B)``.

        ``sum_k importance[g, k] (weight - scale clip(rint(weight / scale)))^2``; `weight` is ``(G, M, K)``,
        `importance` ``(G, K)``. Here rows are in natural order, block after block.
        """
        ...

    def feedback(self, coupling: Array, weight: Array, steps: Steps) -> Array:
        """Round row after row, each towards what best cancels the error of the rows before it.

        `coupling` is ``(G, K, K)``, of which only what lies above the diagonal is read: with ``H = U U^T``,
        U upper triangular, it holds ``U[j, i] / U[i, i]`` for j < i. Row i is rounded to the step nearest to
        ``weight[i] + sum_{j<i} coupling[j, i] * (weight[j] - scale p[j])``. Returns the steps ``(G, M, K)``.
        """
        ...

    def descend(
        self, gram: Array, pull: Array, residual: Array, p: Array, steps: Steps, sweeps: int, refit: bool
    ) -> Array:
        """Visit every coordinate in turn and move it to the minimiser of its one-dimensional quadratic.

        ``p[i] <- clip(p[i] + rint(residual[i] / (scale[i] * gram[i, i])))`` with `residual` kept equal to
        ``gram (weight - scale p)``; rows whose diagonal is 0 are left alone. With `refit`, which needs B = 1,
        each sweep ends with the best scale for the codes, ``p^T pull / p^T gram p`` where that is positive;
        `pull` is ``gram weight``. A column stops when no code moved and its scale stands still, at the latest
        after `sweeps`. In place: `residual`, `p`, ``steps.scale``. Returns which columns had codes moved,
        ``(G, M)`` booleans.
        """
        ...

    def kick(self, gram: Array, residual: Array, p: Array, steps: Steps, picks: np.ndarray) -> None:
        """Iterated local search at fixed scales, one kick for each line of `picks` ``(kicks, depth)``.

        A kick moves `depth` rows by one step towards their own second best code (``floor(pick * live rows)``
        of each group; `picks` in [0, 1)), then lets coordinate sweeps repair the column until nothing moves,
        and is kept if the loss is lower than before, undone otherwise. In place: `residual`, `p`.
        """
        ...

    def sweep_ordered(self, gram: Array, residual: Array, p: Array, steps: Steps, order: Array) -> None:
        """One sweep in which column m visits the rows ``order[g, m]``, and steps need not be integers yet:
        ``p[i] <- clip(rint(p[i] + residual[i] / (scale[i] * gram[i, i])))``. In place: `residual`, `p`.
        """
        ...
