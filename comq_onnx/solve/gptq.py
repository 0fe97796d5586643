"""GPTQ (arXiv 2210.17323): act-order, searched scale, one pass of rounding with feedback, blocked.

The scale is searched once, weighted by diag(Gram), and never refitted.
"""

import numpy as np

from comq_onnx.backends.protocol import Backend
from comq_onnx.solve.descent import Columns
from comq_onnx.solve.factor import ordered, restored
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.rtn import nearest_steps
from comq_onnx.solve.scales import bounds, searched

DAMPING = 0.01
"""Part of mean(diag Gram): the paper's value."""


def solve(posed: Posed, backend: Backend) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str]:
    """Steps ``(G, K, M)``, stored scales, zero points, and a note."""
    scale, zero = searched(posed)
    scale = posed.stored(scale)
    problem = ordered(posed, np.full(len(posed.live), DAMPING))
    columns = Columns(problem.weight, scale, *bounds(zero, posed.grid))
    p = backend.feedback(problem.coupling, problem.weight, columns.steps(problem.block_of))
    p = np.where(posed.live[:, :, None], restored(p, problem.order), nearest_steps(posed, scale, zero))
    return p, scale, zero, problem.note
