"""The grid of values a quantized weight may take, and the one law that binds codes to weights.

The law, used by every producer and consumer of codes::

    W[g, k, m]  ~  scale[g, k // block, m] * (codes[g, k, m] - zero_point[g, k // block, m])

`W` is a weight in row layout: ``(groups, rows, cols)``, rows summed over, cols output channels. Scales and
zero points always have the shape ``(groups, blocks, cols)``, whatever the granularity: a per-channel grid
has one block, and a per-tensor grid repeats one value. The last block may be ragged.

Symmetric grids hold signed codes in ``[-2**(bits-1), 2**(bits-1) - 1]`` and have no zero point; asymmetric
grids hold unsigned codes in ``[0, 2**bits - 1]`` and a zero point in the same range. Scales are strictly
positive, always: TensorRT refuses any other.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

BITS = (2, 3, 4, 5, 6, 7, 8)
Granularity = Literal["block", "channel", "tensor"]


@dataclass(frozen=True)
class Grid:
    """Bits, symmetry and granularity of one layer's codes.

    Parameters
    ----------
    bits
        Width of a code: 2 to 6, or 8; 7 for int8 weights with room to spare.
    symmetric
        Signed codes without zero point, or unsigned codes with one.
    granularity
        ``"block"`` (one scale for `block_size` rows of a column), ``"channel"`` (one for a column) or
        ``"tensor"`` (one for the whole weight).
    block_size
        Rows that share a scale; 0 unless the granularity is ``"block"``.
    """

    bits: int
    symmetric: bool = True
    granularity: Granularity = "channel"
    block_size: int = 0

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {BITS}, not {self.bits}")
        if (self.granularity == "block") != (self.block_size > 0):
            raise ValueError("block_size is positive for a block grid and 0 for any other")

    @property
    def lo(self) -> int:
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def hi(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    @property
    def code_dtype(self) -> np.dtype:
        return np.dtype(np.int8 if self.symmetric else np.uint8)

    def rows_per_block(self, rows: int) -> int:
        """Rows that share one scale in a column of `rows` rows."""
        return min(self.block_size, rows) if self.granularity == "block" else rows

    def blocks(self, rows: int) -> int:
        """Scales in a column of `rows` rows, a ragged last block counted."""
        return -(-rows // self.rows_per_block(rows))

    def __str__(self) -> str:
        place = f"b{self.block_size}" if self.granularity == "block" else self.granularity
        return f"int{self.bits} {place}" if self.symmetric else f"uint{self.bits} {place}"


def spread(per_block: np.ndarray, rows: int, block: int) -> np.ndarray:
    """Repeat ``(groups, blocks, cols)`` to ``(groups, rows, cols)``, `block` rows to a block."""
    if per_block.shape[1] == 1:
        return np.broadcast_to(per_block, (per_block.shape[0], rows, per_block.shape[2]))
    return np.repeat(per_block, block, axis=1)[:, :rows]


def nearest(weight: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, grid: Grid) -> np.ndarray:
    """Codes of the grid points nearest to `weight` (round half to even), clipped to the grid.

    `weight` is ``(groups, rows, cols)``; `scale` and `zero_point` are ``(groups, blocks, cols)``.
    """
    rows = weight.shape[1]
    block = grid.rows_per_block(rows)
    codes = np.rint(weight / spread(scale, rows, block))
    if zero_point is not None:
        codes += spread(zero_point, rows, block)
    return np.clip(codes, grid.lo, grid.hi).astype(grid.code_dtype)


def dequantize(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, grid: Grid) -> np.ndarray:
    """The weights that `codes` stand for, as float64 ``(groups, rows, cols)``: the law of this module."""
    rows = codes.shape[1]
    block = grid.rows_per_block(rows)
    steps = codes.astype(np.float64)
    if zero_point is not None:
        steps -= spread(zero_point, rows, block)
    return steps * spread(scale, rows, block)
