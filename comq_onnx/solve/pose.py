"""From a `Problem` to the well-scaled least-squares problem that the solvers work on.

The bias is eliminated first: the best one for given codes is ``mean^T (W - W')``, and with it the loss is
that of the centred Gram ``E[x x^T] - mean mean^T`` (bias compensation, arXiv 2404.01892, solved jointly with
the codes). Without a bias the Gram is taken as it is. Columns are then scaled by a power of two and the Gram
to a unit mean diagonal, which is exact for the weights and keeps float32 safe at any magnitude.

Everything from here to the solution is in the layout of `backends.protocol`: a column is contiguous.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from comq_onnx.backends.protocol import Array
from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem

CONSTANT = 1e-10
"""An input whose variance is below this part of its mean square is constant: the bias takes all of it."""
FLOAT32_ROWS = 192
"""Columns this long are solved in float32, shorter ones in float64. The Gram is centred in float64 always."""

_LIMITS = {
    name: (float(info.tiny), float(info.max))
    for name, info in (
        ("float16", np.finfo(np.float16)),
        ("bfloat16", ml_dtypes.finfo(ml_dtypes.bfloat16)),
        ("float32", np.finfo(np.float32)),
    )
}


@dataclass(frozen=True)
class Posed:
    """Minimise ``sum_m (w_m - w'_m)^T gram (w_m - w'_m)`` over the codes and scales of w'."""

    weight: Array
    """``(G, M, K)``: the problem's weight times ``2**-exponent``"""
    exponent: Array
    """``(G, M, 1)`` integers; one value throughout where all columns share a scale"""
    gram: Array
    """``(G, K, K)``, symmetric, mean live diagonal 1, rows and columns of dead inputs 0"""
    level: Array
    """``(G,)``: what the Gram was divided by"""
    live: Array
    """``(G, K)``: inputs that vary; the others are rounded to nearest and influence nothing"""
    grid: Grid
    scale_dtype: str
    note: str
    xp: Any
    """The library whose arrays these are"""

    @property
    def tied(self) -> bool:
        """True where all columns share one scale."""
        return self.grid.granularity == "tensor"

    @property
    def block(self) -> int:
        return self.grid.rows_per_block(self.weight.shape[2])

    @property
    def block_of(self) -> Array:
        """``(G, K)``: the block of each row."""
        groups, _, rows = self.weight.shape
        return self.xp.broadcast_to(self.xp.arange(rows) // self.block, (groups, rows))

    @property
    def diagonal(self) -> Array:
        """``(G, K)``"""
        return self.xp.diagonal(self.gram, axis1=1, axis2=2)

    def stored(self, scale: Array) -> Array:
        """`scale` ``(G, M, B)`` as the file will hold it, still in the units of `weight`."""
        wide = self.xp.ldexp(scale.astype(np.float64), self.exponent)
        return self.xp.ldexp(storable(wide, self.scale_dtype, self.xp), -self.exponent).astype(scale.dtype)


def pose(problem: Problem, centred: bool, xp: Any = np) -> Posed:
    """Choose the Gram, find the dead inputs, scale everything; the arrays are those of `xp`."""
    rows, tied = problem.weight.shape[1], problem.grid.granularity == "tensor"
    dtype = np.float32 if rows >= FLOAT32_ROWS else np.float64
    weight = xp.asarray(problem.weight, dtype=np.float64).swapaxes(1, 2)
    gram, level, live, note = _objective(problem.stats, problem.weight.shape, centred, xp)
    if tied:
        level = xp.full_like(level, level.max())
    scaled = xp.empty(gram.shape, dtype)
    xp.multiply(gram, (1 / xp.where(level > 0, level, 1))[:, None, None], out=scaled, casting="same_kind")
    peak = xp.abs(weight).max(axis=2, keepdims=True)
    if tied:
        peak = xp.full_like(peak, peak.max())
    exponent = xp.frexp(peak)[1]
    fitted = xp.ascontiguousarray(xp.ldexp(weight, -exponent).astype(dtype))
    return Posed(fitted, exponent, scaled, level, live, problem.grid, problem.scale_dtype, note, xp)


def second_moment(stats: InputStats, centred: bool, xp: Any = np) -> Array:
    """``(G, K, K)`` float64: the Gram of the inputs, or their covariance."""
    gram = xp.asarray(stats.gram, dtype=np.float64)
    if not centred:
        return gram
    mean = xp.asarray(stats.mean)
    product = mean[:, :, None] * mean[:, None, :]
    return xp.subtract(gram, product, out=product)


def storable(scale: Array, dtype: str, xp: Any = np) -> Array:
    """`scale` rounded to `dtype`, as float64: never 0, never subnormal, never infinite.

    Runtimes flush subnormals, and a scale must be positive; the codes are solved at the scale that is stored.
    """
    kept = "float32" if dtype == "float64" else dtype
    tiny, huge = _LIMITS[kept]
    clipped = xp.clip(scale, tiny, huge)
    if kept == "bfloat16":
        # The upper half of a float32, rounded to even: a GPU's array library has no such type.
        bits = clipped.astype(np.float32).view(np.uint32)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return bits.view(np.float32).astype(np.float64)
    return clipped.astype(kept).astype(np.float64)


def _objective(
    stats: InputStats | None, shape: tuple[int, ...], centred: bool, xp: Any
) -> tuple[Array, Array, Array, str]:
    """Gram, mean of its live diagonal, live inputs, and a note."""
    groups, rows, _ = shape
    if stats is None:
        gram = xp.broadcast_to(xp.eye(rows), (groups, rows, rows))
        note = "no activations seen: every input counts the same"
        return gram, xp.ones(groups), xp.ones((groups, rows), dtype=bool), note
    gram = second_moment(stats, centred, xp)
    diagonal = xp.diagonal(gram, axis1=1, axis2=2)
    live = diagonal > CONSTANT * xp.diagonal(xp.asarray(stats.gram), axis1=1, axis2=2)
    level = (diagonal * live).sum(axis=1) / xp.maximum(live.sum(axis=1), 1)
    if bool(live.all()):
        return gram, level, live, ""
    gram = gram * (live[:, :, None] & live[:, None, :])
    dead = ~live.any(axis=1)
    count = int(dead.sum())
    if not count:
        return gram, level, live, ""
    gram[dead], live[dead], level[dead] = xp.eye(rows), True, 1.0
    which = "" if groups == 1 else f" in {count} of {groups} groups"
    return gram, level, live, f"the inputs never vary{which}: every input counts the same"
