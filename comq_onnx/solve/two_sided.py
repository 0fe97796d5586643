"""A layer's codes under the metric of the layer that reads it: its columns' errors may cancel in the next.

A layer by itself minimises ``sum_c e_c^T H e_c`` over the errors ``e_c = w_c - w'_c`` of its columns. What
its reader B makes of them is ``sum_cd M_cd e_c^T H_cd e_d`` with ``M = S * (W_B W_B^T)``, S the second moment
of the slopes between the two layers; H_cd is the Gram of column c's inputs with column d's. With the other
columns held fixed the best target of column c is ``w_c + sum_{d != c} (M_cd / M_cc) H_cc^-1 H_cd e_d``, and
coordinate descent towards it never raises the loss. So columns are visited in turn, a few rounds; scales stay
as they are. It is the step for the first of two layers in LPCD (arXiv 2512.01546), made for COMQ.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from comq_onnx.backends.engine import cpu_engine, single_threaded_blas
from comq_onnx.backends.protocol import Backend, Steps
from comq_onnx.grid import dequantize
from comq_onnx.grid import spread as spread_rows
from comq_onnx.records import InputStats, Layout, Problem, Solution
from comq_onnx.solve.damping import chosen
from comq_onnx.solve.layer import compensating
from comq_onnx.solve.pose import pose, second_moment
from comq_onnx.solve.target import corrected

ROUNDS = 4
"""Visits of all columns at most; they end when no code moves."""
SWEEPS = 50
"""Bound on the sweeps of one column at one visit."""


def metric_of(weight: np.ndarray, layout: Layout, slopes: np.ndarray) -> np.ndarray:
    """``(C, C)``: how errors in the C inputs of a layer meet in its outputs, kernel positions summed.

    `weight` is the layer's, ``(groups, rows, cols)``; `slopes` the second moment ``(C, C)`` of how much its
    inputs follow the channels before the nodes between. Positive semidefinite, as both factors are.
    """
    channels = layout.shape[1] if layout.kind == "conv" else layout.rows
    apart = weight.reshape(layout.groups, channels, -1)
    result = np.zeros((layout.groups * channels,) * 2)
    for group, part in enumerate(apart @ apart.swapaxes(1, 2)):
        here = slice(group * channels, (group + 1) * channels)
        result[here, here] = part
    return result * slopes


class Coupling(Protocol):
    """The Gram of all columns' inputs, and what the columns' errors make with it at present."""

    gram: np.ndarray
    """``(groups, K, K)``: of each column's own inputs"""

    def pull(self, column: int, mixture: np.ndarray) -> np.ndarray:
        """``(K,)``: ``sum_d mixture[d] H_cd e_d``."""
        ...

    def put(self, column: int, error: np.ndarray) -> None:
        """The column's error is now this, ``(K,)``."""
        ...


class Shared:
    """All columns read the same inputs: ``H_cd = H``."""

    def __init__(self, gram: np.ndarray, error: np.ndarray) -> None:
        self.gram, self._felt = gram, error @ gram[0]

    def pull(self, column: int, mixture: np.ndarray) -> np.ndarray:
        return mixture @ self._felt

    def put(self, column: int, error: np.ndarray) -> None:
        self._felt[column] = self.gram[0] @ error


class Apart:
    """Groups of columns read inputs of their own, of which rows ``(groups, n, K)`` are given.

    What `damping` ``(groups,)`` adds to the diagonals holds a column to its own target alone.
    """

    def __init__(self, rows: np.ndarray, damping: np.ndarray, error: np.ndarray) -> None:
        groups, self._count, length = rows.shape
        self._rows, self._damping, self._error = rows, damping, error.copy()
        self._share = len(error) // groups
        self.gram = rows.swapaxes(1, 2) @ rows / self._count + damping[:, None, None] * np.eye(length)
        parts = error.reshape(groups, self._share, length).astype(rows.dtype)
        self._made = (parts @ rows.swapaxes(1, 2)).reshape(len(error), -1)

    def pull(self, column: int, mixture: np.ndarray) -> np.ndarray:
        group = column // self._share
        seen = (mixture.astype(self._made.dtype) @ self._made) @ self._rows[group] / self._count
        return seen + mixture[column] * self._damping[group] * self._error[column]

    def put(self, column: int, error: np.ndarray) -> None:
        self._error[column] = error
        self._made[column] = self._rows[column // self._share] @ error.astype(self._made.dtype)


@dataclass(frozen=True)
class Codes:
    """Steps and the grid of all columns, rows in natural order."""

    p: np.ndarray
    """``(C, K)``: code minus zero point"""
    scale: np.ndarray
    """``(C, B)``"""
    lo: np.ndarray
    hi: np.ndarray
    """``(C, B)``"""
    block: int
    """Rows to a scale"""

    @property
    def values(self) -> np.ndarray:
        """The weights they stand for, ``(C, K)``."""
        return np.repeat(self.scale, self.block, axis=1)[:, : self.p.shape[1]] * self.p


def descend(
    coupling: Coupling, metric: np.ndarray, target: np.ndarray, codes: Codes, backend: Backend
) -> Codes:
    """Codes of a lower loss ``sum_cd M_cd e_c^T H_cd e_d``, ``e = target - codes.values``.

    `target` is ``(C, K)``, columns of a group side by side; `coupling` must hold the present errors.
    """
    p, length, groups = codes.p.copy(), target.shape[1], len(coupling.gram)
    block_of = (np.arange(length) // codes.block)[None]
    share, wide = len(target) // groups, np.minimum(block_of[0], codes.scale.shape[1] - 1)
    for _ in range(ROUNDS):
        moved = False
        for c in np.flatnonzero(np.diagonal(metric) > 0).tolist():
            rest = np.ascontiguousarray(coupling.pull(c, metric[c] / metric[c, c]), np.float64)[None, None]
            mine, before = p[c][None, None].copy(), p[c]
            scale, lo, hi = (v[c][None, None].copy() for v in (codes.scale, codes.lo, codes.hi))
            gram = coupling.gram[c // share][None]
            backend.descend(gram, rest, rest, mine, Steps(scale, lo, hi, block_of), SWEEPS, False)
            if not np.array_equal(mine[0, 0], before):
                p[c], moved = mine[0, 0], True
                coupling.put(c, target[c] - codes.scale[c][wide] * p[c])
        if not moved:
            break
    return replace(codes, p=p)


def resettled(
    problem: Problem, solution: Solution, metric: np.ndarray, rows: np.ndarray | None, compensate: bool
) -> Solution:
    """The solution with its codes moved to a lower loss under `metric` ``(C, C)``, scales as they are.

    `rows` ``(groups, n, K)`` are inputs of the layer, taken at the same places for all groups; they may be
    None where there is one group. The bias is folded anew.
    """
    stats = problem.stats
    if stats is None:
        return solution
    engine, original = cpu_engine(1), np.asarray(problem.weight, np.float64)
    with single_threaded_blas():
        aimed = corrected(problem, compensate, engine)[0]
        posed = pose(replace(problem, weight=aimed), compensate)
        damping = np.asarray(chosen(stats, posed, compensate, engine)) * posed.level
        target, codes = _columns(aimed), _codes_of(solution)
        coupling = _coupling(stats, damping, rows, target - codes.values, compensate)
        found = descend(coupling, metric, target, codes, engine.backend)
    groups, length, cols = aimed.shape
    steps = found.p.reshape(groups, cols, length).swapaxes(1, 2)
    zero = solution.zero_point
    if zero is not None:
        steps = steps + spread_rows(zero.astype(np.float64), length, codes.block)
    new = np.ascontiguousarray(steps.astype(solution.codes.dtype))
    written = dequantize(new, solution.scale, zero, solution.grid)
    error, gram = aimed - written, second_moment(stats, compensate)
    quality = replace(solution.quality, solved=max(float((error * (gram @ error)).sum()), 0.0))
    bias = compensating(stats, original, original - written) if solution.bias is not None else None
    return replace(solution, codes=new, bias=bias, quality=quality)


def _columns(values: np.ndarray) -> np.ndarray:
    """``(groups, rows, cols)`` as ``(C, rows)``, in the order of output channels."""
    return np.ascontiguousarray(values.swapaxes(1, 2)).reshape(-1, values.shape[1]).astype(np.float64)


def _codes_of(solution: Solution) -> Codes:
    grid, rows = solution.grid, solution.codes.shape[1]
    scale, block = _columns(solution.scale), grid.rows_per_block(rows)
    zero = np.zeros_like(scale) if solution.zero_point is None else _columns(solution.zero_point)
    p = _columns(solution.codes) - np.repeat(zero, block, axis=1)[:, :rows]
    return Codes(p, scale, grid.lo - zero, grid.hi - zero, block)


def _coupling(
    stats: InputStats, damping: np.ndarray, rows: np.ndarray | None, error: np.ndarray, centred: bool
) -> Coupling:
    if rows is None or len(rows) == 1:
        gram = second_moment(stats, centred)
        return Shared(gram + damping[:, None, None] * np.eye(gram.shape[1]), error)
    if centred:
        rows = rows - stats.mean[:, None].astype(rows.dtype)
    return Apart(rows, damping, error)
