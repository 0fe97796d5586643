"""COMQ as its paper has it (arXiv 2403.07134), in Gram form: the ``comq-paper`` baseline.

Codes start as floats ``W / d``, so that the residual starts at zero; each column visits its rows by falling
``||x_i|| |w_ij|``, always in that order; after each of K = 4 sweeps the column's scale is refitted. The start
scale is searched, which the paper leaves to the user. No damping, no bias.
"""

from collections.abc import Sequence
from dataclasses import replace

from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Array, Backend
from comq_onnx.solve.descent import Columns, Task, refit, residual
from comq_onnx.solve.factor import Ordered
from comq_onnx.solve.panels import by_pieces
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.rtn import Rounded, nearest_steps
from comq_onnx.solve.scales import bounds, searched

SWEEPS = 4


def solve(
    posed: Posed, engine: Engine, sweeps: int = SWEEPS, factors: Sequence[float] | None = None
) -> Rounded:
    """Steps ``(G, M, K)``, stored scales, zero points. `factors` as in `scales.searched`."""

    def piece(part: Posed, _: slice) -> Rounded:
        return _columns(part, engine.backend, sweeps, searched(part, engine.backend, factors))

    p, scale, zero = by_pieces(posed, engine, piece)
    return p, scale, zero


def _columns(posed: Posed, backend: Backend, sweeps: int, start: tuple[Array, Array | None]) -> Rounded:
    xp, weight = posed.xp, posed.weight
    groups, cols, rows = weight.shape
    scale, zero = start
    natural = xp.broadcast_to(xp.arange(rows), (groups, rows))
    block_of = xp.ascontiguousarray(posed.block_of)
    problem = Ordered(natural, posed.gram, posed.gram, block_of, posed.gram, "")
    task = Task(problem, weight, weight @ posed.gram, posed.block, xp, cols if posed.tied else 0)
    order = _greedy(posed)
    here = Columns(weight, scale, *bounds(zero, posed))
    here = replace(here, p=weight / here.steps(block_of).spread(scale))
    rest = xp.zeros_like(weight)
    for _ in range(sweeps):
        backend.sweep_ordered(posed.gram, rest, here.p, here.steps(block_of), order)
        here = replace(here, scale=refit(task, here, rest))
        rest = residual(task, here)
    scale = posed.stored(here.scale)
    return xp.where(posed.live[:, None], here.p, nearest_steps(posed, scale, zero)), scale, zero


def _greedy(posed: Posed) -> Array:
    """``(G, M, K)``: the rows of each column by falling ``||x_i|| |w_ij|``."""
    xp = posed.xp
    return xp.argsort(-xp.sqrt(posed.diagonal)[:, None] * xp.abs(posed.weight), axis=2, kind="stable")
