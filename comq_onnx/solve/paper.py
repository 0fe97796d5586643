"""COMQ as its paper has it (arXiv 2403.07134), in Gram form: the ``comq-paper`` baseline.

Codes start as floats ``W / d``, so that the residual starts at zero; each column visits its rows by falling
``||x_i|| |w_ij|``, always in that order; after each of K = 4 sweeps the column's scale is refitted. The start
scale is searched, which the paper leaves to the user. No damping, no bias.
"""

from dataclasses import replace

import numpy as np

from comq_onnx.backends.protocol import Backend
from comq_onnx.solve.descent import Columns, Task, after_refit, refit
from comq_onnx.solve.factor import Ordered
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.rtn import nearest_steps
from comq_onnx.solve.scales import bounds, searched

SWEEPS = 4


def solve(
    posed: Posed, backend: Backend, sweeps: int = SWEEPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Steps ``(G, K, M)``, stored scales, zero points."""
    scale, zero = searched(posed)
    groups, rows, cols = posed.weight.shape
    natural = np.broadcast_to(np.arange(rows), (groups, rows))
    problem = Ordered(natural, posed.weight, posed.gram, posed.gram, posed.block_of, "")
    pull = posed.gram @ posed.weight
    task = Task(problem, posed.weight, pull, posed.block, cols if posed.tied else 0)
    norms = np.sqrt(np.diagonal(posed.gram, axis1=1, axis2=2))
    order = np.argsort(-norms[:, :, None] * np.abs(posed.weight), axis=1, kind="stable")
    here = Columns(posed.weight, scale, *bounds(zero, posed.grid))
    here = replace(here, p=posed.weight / here.steps(posed.block_of).spread(scale))
    rest = np.zeros_like(posed.weight)
    for _ in range(sweeps):
        backend.sweep_ordered(posed.gram, rest, here.p, here.steps(posed.block_of), order)
        fresh = refit(task, here, rest)
        rest = after_refit(task, here, fresh, rest)
        here = replace(here, scale=fresh)
    scale = posed.stored(here.scale)
    p = np.where(posed.live[:, :, None], here.p, nearest_steps(posed, scale, zero))
    return p, scale, zero
