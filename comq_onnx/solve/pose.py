"""From a `Problem` to the well-scaled least-squares problem that the solvers work on.

The bias is eliminated first: the best one for given codes is ``mean^T (W - W')``, and with it the loss is
that of the centred Gram ``E[x x^T] - mean mean^T`` (bias compensation, arXiv 2404.01892, solved jointly with
the codes). Without a bias the Gram is taken as it is. Columns are then scaled by a power of two and the Gram
to a unit mean diagonal, which is exact for the weights and keeps float32 safe at any magnitude.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem

CONSTANT = 1e-10
"""An input whose variance is below this part of its mean square is constant: the bias takes all of it."""

_LIMITS = {
    name: (float(info.tiny), float(info.max))
    for name, info in (
        ("float16", np.finfo(np.float16)),
        ("bfloat16", ml_dtypes.finfo(ml_dtypes.bfloat16)),
        ("float32", np.finfo(np.float32)),
    )
}
_DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}


@dataclass(frozen=True)
class Posed:
    """Minimise ``sum_m (w_m - w'_m)^T gram (w_m - w'_m)`` over the codes and scales of w'."""

    weight: np.ndarray
    """``(G, K, M)`` float64: the problem's weight times ``2**-exponent``"""
    exponent: np.ndarray
    """``(G, 1, M)`` integers; one value throughout where all columns share a scale"""
    gram: np.ndarray
    """``(G, K, K)`` float64, symmetric, mean live diagonal 1, rows and columns of dead inputs 0"""
    live: np.ndarray
    """``(G, K)``: inputs that vary; the others are rounded to nearest and influence nothing"""
    grid: Grid
    scale_dtype: str
    crowding: np.ndarray
    """``(G,)``: live inputs over calibration rows; how far the Gram is from the inputs' true one"""
    note: str

    @property
    def tied(self) -> bool:
        """True where all columns share one scale."""
        return self.grid.granularity == "tensor"

    @property
    def block(self) -> int:
        return self.grid.rows_per_block(self.weight.shape[1])

    @property
    def starts(self) -> np.ndarray:
        """First row of each block."""
        return np.arange(0, self.weight.shape[1], self.block)

    @property
    def block_of(self) -> np.ndarray:
        """``(G, K)``: the block of each row."""
        groups, rows, _ = self.weight.shape
        return np.broadcast_to(np.arange(rows) // self.block, (groups, rows))

    def stored(self, scale: np.ndarray) -> np.ndarray:
        """`scale` ``(G, B, M)`` as the file will hold it, still in the units of `weight`."""
        return np.ldexp(storable(np.ldexp(scale, self.exponent), self.scale_dtype), -self.exponent)


def pose(problem: Problem, centred: bool) -> Posed:
    """Choose the Gram, find the dead inputs, scale everything."""
    weight = np.asarray(problem.weight, dtype=np.float64)
    gram, live, note = _objective(problem.stats, weight.shape, centred)
    level = np.trace(gram, axis1=1, axis2=2) / np.maximum(live.sum(axis=1), 1)
    if problem.grid.granularity == "tensor":
        level = np.full_like(level, level.max())
    gram = gram / np.where(level > 0, level, 1)[:, None, None]
    peak = np.abs(weight).max(axis=1, keepdims=True)
    if problem.grid.granularity == "tensor":
        peak = np.full_like(peak, peak.max())
    exponent = np.frexp(peak)[1]
    crowding = live.sum(axis=1) / (max(problem.stats.count, 1) if problem.stats else np.inf)
    scaled = np.ldexp(weight, -exponent)
    return Posed(scaled, exponent, gram, live, problem.grid, problem.scale_dtype, crowding, note)


def second_moment(stats: InputStats, centred: bool) -> np.ndarray:
    """``(G, K, K)``: the Gram of the inputs, or their covariance."""
    gram = np.asarray(stats.gram, dtype=np.float64)
    if not centred:
        return gram
    return gram - stats.mean[:, :, None] * stats.mean[:, None, :]


def storable(scale: np.ndarray, dtype: str) -> np.ndarray:
    """`scale` rounded to `dtype`, as float64: never 0, never subnormal, never infinite.

    Runtimes flush subnormals, and a scale must be positive; the codes are solved at the scale that is stored.
    """
    kept = "float32" if dtype == "float64" else dtype
    tiny, huge = _LIMITS[kept]
    return np.clip(scale, tiny, huge).astype(_DTYPES[kept]).astype(np.float64)


def _objective(
    stats: InputStats | None, shape: tuple[int, ...], centred: bool
) -> tuple[np.ndarray, np.ndarray, str]:
    groups, rows, _ = shape
    identity = np.eye(rows)
    if stats is None:
        gram = np.broadcast_to(identity, (groups, rows, rows))
        return gram, np.ones((groups, rows), dtype=bool), "no activations seen: every input counts the same"
    gram = second_moment(stats, centred)
    gram = (gram + gram.swapaxes(1, 2)) / 2
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    live = diagonal > CONSTANT * np.diagonal(stats.gram, axis1=1, axis2=2)
    gram *= live[:, :, None] & live[:, None, :]
    dead = ~live.any(axis=1)
    if not dead.any():
        return gram, live, ""
    gram[dead], live[dead] = identity, True
    which = "" if groups == 1 else f" in {int(dead.sum())} of {groups} groups"
    return gram, live, f"the inputs never vary{which}: every input counts the same"
