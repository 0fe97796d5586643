"""Round to nearest: the baseline, and with a searched scale a start and a floor for the others."""

from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Array
from comq_onnx.solve.panels import by_pieces
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.scales import absmax, bounds, searched, spread

Rounded = tuple[Array, Array, Array | None]
"""Steps ``(G, M, K)``, stored scales ``(G, M, B)``, zero points or None"""


def solve(posed: Posed) -> Rounded:
    """Nearest steps at the absmax scale."""
    return rounded(posed, *absmax(posed, live_only=False))


def solve_searched(posed: Posed, engine: Engine) -> Rounded:
    """Nearest steps at the searched scale: where all inputs count the same, hard to improve on."""
    p, scale, zero = by_pieces(posed, engine, lambda part, _: rounded(part, *searched(part, engine.backend)))
    return p, scale, zero  # pyright: ignore[reportReturnType]


def rounded(posed: Posed, scale: Array, zero: Array | None) -> Rounded:
    """Nearest steps at `scale`, as it will be stored."""
    scale = posed.stored(scale)
    return nearest_steps(posed, scale, zero), scale, zero


def nearest_steps(posed: Posed, scale: Array, zero: Array | None) -> Array:
    """``clip(rint(w / scale))``, ``(G, M, K)``."""
    xp = posed.xp
    lo, hi = (spread(values, posed) for values in bounds(zero, posed))
    return xp.clip(xp.rint(posed.weight / spread(scale, posed)), lo, hi)
