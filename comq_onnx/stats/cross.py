"""Cross-moments of what two networks feed to a layer: sums of ``(x - x') x'^T`` without keeping rows.

The same for ``(r - r') x'^T``, r what the output of the layer is added to.

Chunks as in `stats.gram`: a product in float32 after means of the first chunk are taken out and very large or
small values are divided by a power of two, a sum in float64. The difference is summed and not x itself: it is
small beside x, and would be lost in its rounding.
"""

from typing import Any

import numpy as np

from comq_onnx.backends.protocol import Array, on_host
from comq_onnx.stats.gram import SAFE, chunk_size


def cross_bytes_needed(groups: int, rows: int, width: int) -> int:
    """Memory of one sum, its chunks and a product included; `width` is that of the gaps."""
    return 12 * groups * rows * width + 4 * chunk_size(groups, rows) * groups * (rows + width)


class CrossSum:
    """Running moments of rows x' and of gaps, `width` to a row, in NumPy or on the device of `xp`."""

    def __init__(
        self, groups: int, rows: int, width: int, xp: Any, dtype: np.dtype | type = np.float32
    ) -> None:
        wide = np.float64 if np.dtype(dtype) == np.float64 else np.float32
        size = chunk_size(groups, rows)
        self._xp, self._filled, self._started = xp, 0, False
        self._rows, self._gaps = xp.empty((groups, size, rows), wide), xp.empty((groups, size, width), wide)
        self._shift, self._gap_shift = xp.zeros((groups, rows), wide), xp.zeros((groups, width), wide)
        self._sum, self._gap_sum = xp.zeros((groups, rows)), xp.zeros((groups, width))
        self._cross, self._energy = xp.zeros((groups, width, rows)), xp.zeros(groups)
        self.count = 0
        """Rows seen, per group."""

    def add(self, rows: Array, gaps: Array) -> None:
        """Add x' ``(groups, n, rows)`` and gaps ``(groups, n, width)``, ``x - x'`` or ``r - r'``."""
        done, size = 0, self._rows.shape[1]
        while done < rows.shape[1]:
            part = slice(done, done + size - self._filled)
            piece, there = rows[:, part], self._filled
            self._filled += piece.shape[1]
            self._rows[:, there : self._filled] = piece
            self._gaps[:, there : self._filled] = gaps[:, part]
            done += piece.shape[1]
            if self._filled == size:
                self._flush()
        self.count += rows.shape[1]

    def moments(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Mean of the gaps ``(groups, width)``, mean of ``gap x'^T`` ``(groups, width, rows)``, on the host.

        And the mean of the squared gaps, summed over the width and the groups. Nothing may be added
        afterwards.
        """
        self._flush()
        mean, gap_mean = self._sum / self.count, self._gap_sum / self.count
        shift, gap_shift = self._shift.astype(np.float64), self._gap_shift.astype(np.float64)
        cross = self._cross
        cross /= self.count
        # E[d x'] = E[(d-t)(x'-s)'] + t m' + n s', m and n the means of x'-s and d-t, and t s' from both.
        cross += gap_shift[:, :, None] * (mean + shift)[:, None, :]
        cross += gap_mean[:, :, None] * shift[:, None, :]
        # E[d^2] = E[(d-t)^2] + 2 t n + t^2
        squares = self._energy / self.count + (gap_shift * (2 * gap_mean + gap_shift)).sum(axis=1)
        return _read_only(gap_mean + gap_shift), _read_only(cross), max(float(squares.sum()), 0.0)

    def _flush(self) -> None:
        if self._filled == 0:
            return
        rows, gaps = self._rows[:, : self._filled], self._gaps[:, : self._filled]
        if not self._started:
            self._shift[:] = rows.mean(axis=1, dtype=np.float64)
            self._gap_shift[:] = gaps.mean(axis=1, dtype=np.float64)
            self._started = True
        rows -= self._shift[:, None]
        gaps -= self._gap_shift[:, None]
        left, right = self._unit(gaps), self._unit(rows)
        ones = self._xp.ones((1, self._filled), rows.dtype)
        # Sums of a chunk as products with ones: several times faster than sums down a column.
        for total, part, power in ((self._sum, rows, right), (self._gap_sum, gaps, left)):
            total += self._xp.ldexp((ones @ part)[:, 0].astype(np.float64), power)
        square = self._xp.einsum("gnk,gnk->g", gaps, gaps).astype(np.float64)
        self._energy += self._xp.ldexp(square, 2 * left)
        factor = self._xp.ldexp(self._xp.ones((), np.float64), left + right)
        self._cross += (gaps.swapaxes(1, 2) @ rows).astype(np.float64) * factor
        self._filled = 0

    def _unit(self, chunk: Array) -> Array:
        """Divide a chunk, in place, by the power of two that is returned; by 1 where products are safe."""
        exponent = self._xp.frexp(self._xp.maximum(chunk.max(), -chunk.min()))[1]
        exponent = self._xp.where(abs(exponent) <= SAFE, 0, exponent)
        if self._xp is not np or exponent:
            chunk[:] = self._xp.ldexp(chunk, -exponent)
        return exponent


def _read_only(values: Array) -> np.ndarray:
    result = on_host(values)
    result.flags.writeable = False
    return result
