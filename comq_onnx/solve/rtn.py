"""Round to nearest: the baseline, and with a searched scale a start and a floor for the others."""

from comq_onnx.backends.protocol import Array, Backend
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.scales import absmax, bounds, searched, spread

Rounded = tuple[Array, Array, Array | None]
"""Steps ``(G, M, K)``, stored scales ``(G, M, B)``, zero points or None"""


def solve(posed: Posed) -> Rounded:
    """Nearest steps at the absmax scale."""
    return rounded(posed, *absmax(posed, live_only=False))


def solve_searched(posed: Posed, backend: Backend) -> Rounded:
    """Nearest steps at the searched scale."""
    return rounded(posed, *searched(posed, backend))


def rounded(posed: Posed, scale: Array, zero: Array | None) -> Rounded:
    """Nearest steps at `scale`, as it will be stored."""
    scale = posed.stored(scale)
    return nearest_steps(posed, scale, zero), scale, zero


def nearest_steps(posed: Posed, scale: Array, zero: Array | None) -> Array:
    """``clip(rint(w / scale))``, ``(G, M, K)``."""
    xp = posed.xp
    lo, hi = (spread(values, posed) for values in bounds(zero, posed))
    return xp.clip(xp.rint(posed.weight / spread(scale, posed)), lo, hi)
