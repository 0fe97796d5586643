"""What a layer loses on each grid, from one Gram: solved in a hurry on half of the samples, judged on the
other half.

In-sample losses are of no use here: fewer samples than a classifier has inputs leave directions that cost
nothing, 2-bit codes use them up, and new samples pay for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.grid import Grid, dequantize
from comq_onnx.moments import halves
from comq_onnx.records import InputStats, Problem, Quality, Solution
from comq_onnx.solve import comq
from comq_onnx.solve.damping import chosen, unseen_error
from comq_onnx.solve.effort import Settings
from comq_onnx.solve.layer import compensating, solve_layer, unposed
from comq_onnx.solve.pose import pose

HURRIED = Settings(rounds=((1.0,),), kicks=0, sweeps=2)
"""One rounding with feedback and two sweeps; its losses rank grids as the full solve's do"""
NOT_MEASURED = Quality(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Trial:
    """A layer on one grid."""

    loss: float
    """``E||y - y'||^2 / E||Wᵀx||^2`` on samples that the solve has not seen"""
    solution: Solution
    """Solved in a hurry; for measurements only"""


def curve(
    weight: np.ndarray,
    stats: InputStats | None,
    grids: Mapping[str, Grid],
    how: tuple[bool, str, Engine],
) -> dict[str, Trial]:
    """The loss of a layer on each of `grids`, by their names.

    Parameters
    ----------
    weight
        ``(groups, rows, cols)``.
    stats
        With a half held out; without one, losses are those of the samples that were solved on. None for an
        embedding, which meets one-hot inputs.
    how
        Whether a compensating bias is folded, the type of scales, and what computes.
    """
    compensate, scale_dtype, engine = how
    if stats is None:
        return {name: _lookup(weight, grid, scale_dtype, engine) for name, grid in grids.items()}
    seen, unseen = halves(stats) if stats.half is not None else (stats, stats)
    total = float(unseen_error(weight.swapaxes(1, 2), seen, unseen, compensate).sum())
    damping, trials = None, {}
    with single_threaded_blas():
        for name, grid in grids.items():
            posed = pose(Problem(weight, seen, grid, scale_dtype), compensate, engine.backend.xp)
            if damping is None:
                damping = chosen(stats, posed, compensate, engine)
            answer, _, note = comq.solve(posed, damping, engine, HURRIED)
            codes, scale, zero = unposed(posed, answer)
            error = weight - dequantize(codes, scale, zero, grid)
            bias = compensating(seen, weight, error) if compensate else None
            lost = float(unseen_error(error.swapaxes(1, 2), seen, unseen, compensate).sum())
            solution = Solution(grid, codes, scale, zero, bias, NOT_MEASURED, note)
            trials[name] = Trial(max(lost, 0.0) / total if total > 0 else 0.0, solution)
    return trials


def _lookup(weight: np.ndarray, grid: Grid, scale_dtype: str, engine: Engine) -> Trial:
    solver = "rtn" if grid.bits == 8 else "rtn-searched"
    solution = solve_layer(Problem(weight, None, grid, scale_dtype), solver, False, engine=engine)
    quality = solution.quality
    return Trial(quality.solved / quality.signal if quality.signal > 0 else 0.0, solution)
