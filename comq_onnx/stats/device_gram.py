"""`stats.gram` for rows in a GPU's memory: the same sums in the same chunks, and no row copied to the host.

A chunk is multiplied in float32 after its shift and its power of two, and added in float64, as in
`stats.gram.GramSum`, against which it is tested. Written for an array library `xp`, NumPy or CuPy. A product
is cut into panels only for its float64 copy, because a GPU multiplies a whole chunk faster than its parts.
"""

from typing import Any

import numpy as np

from comq_onnx.backends.protocol import Array, on_host
from comq_onnx.records import InputStats
from comq_onnx.stats.gram import ChunkedSum, chunk_size

SMALL = 256
"""Rows of a group up to which all groups are multiplied in one call."""
PANEL = 4096
"""Lines of a product that are added in float64 at a time."""


def device_bytes_needed(groups: int, rows: int) -> int:
    """Memory of one sum on the device: the Gram, the chunk and its scaled copy, a product and its panel."""
    size = chunk_size(groups, rows)
    return 12 * groups * rows * rows + 8 * groups * min(rows, PANEL) * rows + 12 * size * groups * rows


class DeviceGramSum(ChunkedSum):
    """Running mean and Gram of rows of one layer input, on the device of `xp`."""

    def __init__(self, groups: int, rows: int, xp: Any, dtype: np.dtype | type = np.float32) -> None:
        super().__init__(groups, rows, dtype, xp)
        self._xp = xp

    def stats(self) -> InputStats | None:
        """The sums as means over rows, on the host; None where no row was seen. Nothing may follow."""
        self._flush()
        if self.count == 0:
            return None
        self._chunk = self._chunk[:, :0]
        gram, shift = self._gram, self._shift.astype(np.float64)
        mean = self._sum / self.count
        gram /= self.count
        for group, lines in enumerate(gram):
            m, s = mean[group], shift[group]
            for start in range(0, len(lines), PANEL):
                panel = slice(start, start + PANEL)
                # E[xx'] = E[(x-s)(x-s)'] + m s' + s m' + s s'; the last two share a factor.
                lines[panel] += m[panel, None] * s + s[panel, None] * (m + s)
            _symmetric(lines, self._xp)
        mean += shift
        return InputStats(_read_only(mean), _read_only(gram), self.count)

    def _multiply(self, chunk: Array) -> None:
        xp = self._xp
        # Stays on the device, so that adding rows never waits for it.
        exponent = xp.frexp(xp.abs(chunk).max())[1]
        scaled = xp.ldexp(chunk, -exponent)
        factor = xp.ldexp(xp.ones((), np.float64), 2 * exponent)
        if chunk.shape[2] <= SMALL:
            _add_product(scaled, self._gram, factor)
        else:
            for rows, gram in zip(scaled, self._gram, strict=True):
                _add_product(rows, gram, factor)


def _add_product(rows: Array, gram: Array, factor: Array) -> None:
    """``gram += factor * rows^T rows``, for one group or for all at once."""
    product = rows.swapaxes(-1, -2) @ rows
    for start in range(0, product.shape[-2], PANEL):
        lines = (..., slice(start, start + PANEL), slice(None))
        gram[lines] += product[lines].astype(np.float64) * factor


def _symmetric(gram: Array, xp: Any) -> None:
    """Copy the lower triangle to the upper, in place: symmetric to the last bit."""
    for start in range(0, len(gram), PANEL):
        panel = slice(start, start + PANEL)
        gram[:start, panel] = gram[panel, :start].T
        block = gram[panel, panel]
        block[:] = xp.tril(block) + xp.tril(block, -1).T


def _read_only(values: Array) -> np.ndarray:
    """A read-only NumPy array of what may lie on a GPU."""
    result = on_host(values)
    result.flags.writeable = False
    return result
