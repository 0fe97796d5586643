"""GPTQ (arXiv 2210.17323): act-order, searched scale, one pass of rounding with feedback, blocked.

The scale is searched once, weighted by diag(Gram), and never refitted.
"""

from collections.abc import Sequence

from comq_onnx.backends.engine import Engine
from comq_onnx.solve.descent import Columns
from comq_onnx.solve.factor import ordered, restored, visited
from comq_onnx.solve.panels import by_pieces
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.rtn import Rounded, nearest_steps
from comq_onnx.solve.scales import bounds, searched

DAMPING = 0.01
"""Part of mean(diag Gram): the paper's value."""


def solve(posed: Posed, engine: Engine, factors: Sequence[float] | None = None) -> tuple[Rounded, str]:
    """Steps ``(G, M, K)``, stored scales, zero points; and a note. `factors` as in `scales.searched`."""
    xp, backend = posed.xp, engine.backend
    problem = ordered(posed, xp.full(len(posed.live), DAMPING), backend)

    def piece(part: Posed, groups: slice) -> Rounded:
        scale, zero = searched(part, backend, factors)
        scale, here = part.stored(scale), problem.part(groups)
        columns = Columns(visited(part.weight, here.order, xp), scale, *bounds(zero, part))
        p = backend.feedback(here.coupling, columns.p, columns.steps(here.block_of))
        p = restored(p, here.order, xp)
        return xp.where(part.live[:, None], p, nearest_steps(part, scale, zero)), scale, zero

    p, scale, zero = by_pieces(posed, engine, piece)
    return (p, scale, zero), problem.note
