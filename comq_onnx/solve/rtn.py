"""Round to nearest: the baseline, and with a searched scale a start and a floor for the others."""

import numpy as np

from comq_onnx.grid import spread
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.scales import absmax, bounds, searched

Rounded = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Steps ``(G, K, M)``, stored scales ``(G, B, M)``, zero points or None"""


def solve(posed: Posed, search: bool = False) -> Rounded:
    """Nearest steps at the absmax scale, or at the searched one."""
    scale, zero = searched(posed) if search else absmax(posed, live_only=False)
    scale = posed.stored(scale)
    return nearest_steps(posed, scale, zero), scale, zero


def nearest_steps(posed: Posed, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """``clip(rint(w / scale))``, ``(G, K, M)``."""
    rows, block = posed.weight.shape[1], posed.block
    lo, hi = (spread(values, rows, block) for values in bounds(zero, posed.grid))
    return np.clip(np.rint(posed.weight / spread(scale, rows, block)), lo, hi)
