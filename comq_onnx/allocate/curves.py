"""What a layer loses on each grid, from one Gram: solved in a hurry on half of the samples, judged on the
other half.

In-sample losses are of no use here: fewer samples than a classifier has inputs leave directions that cost
nothing, 2-bit codes use them up, and new samples pay for it. Few grids are solved on the whole layer; the
others on some of its output channels, where their losses are compared with those of the few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.backends.protocol import Array
from comq_onnx.grid import Grid, dequantize
from comq_onnx.moments import halves, of_groups
from comq_onnx.records import InputStats, Problem, Quality, Solution
from comq_onnx.solve import comq
from comq_onnx.solve.damping import chosen, unseen_error
from comq_onnx.solve.effort import Settings
from comq_onnx.solve.layer import compensating, solve_layer, unposed
from comq_onnx.solve.pose import pose

HURRIED = Settings(rounds=((1.0,),), kicks=0, sweeps=2)
"""One rounding with feedback and two sweeps; its losses rank grids as the full solve's do"""
CHANNELS = 96
"""Output channels that losses are compared on, evenly spaced"""
NOT_MEASURED = Quality(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Curve:
    """A layer on all of its grids, by their names."""

    losses: Mapping[str, float]
    """``E||y - y'||^2 / E||Wᵀx||^2`` on samples that the solve has not seen"""
    anchors: Mapping[str, Solution]
    """Those solved on the whole layer, in a hurry; for measurements only"""


@dataclass(frozen=True)
class Bench:
    """What grids are tried on: a layer, or some of its channels."""

    weight: np.ndarray
    """``(groups, rows, cols)``"""
    stats: InputStats | None
    compensate: bool
    scale_dtype: str
    engine: Engine


def curve(bench: Bench, grids: Mapping[str, Grid], anchors: Sequence[str]) -> Curve:
    """The loss of a layer on each of `grids`; `anchors` names those that are solved on all of its channels.

    `bench.stats` has a half held out; without one, losses are those of the samples that were solved on. It
    is None for an embedding, which meets one-hot inputs.
    """
    damping, part = damping_of(bench), some_channels(bench)
    solved = {name: trial(bench, grids[name], damping) for name in anchors}
    losses = {name: loss for name, (loss, _) in solved.items()}
    within = between(grids)
    tried = dict(losses) if part is bench else {}
    for name in sorted(grids.keys() - within.keys() - tried.keys()):
        tried[name], _ = trial(part, grids[name], damping)
    for name in tried.keys() - losses.keys():
        near = min(anchors, key=lambda other: abs(grids[other].bits - grids[name].bits))
        losses[name] = losses[near] * (tried[name] / tried[near] if tried[near] > 0 else 1.0)
    for name, (one, other) in within.items():
        losses.setdefault(name, float(np.sqrt(losses[one] * losses[other])))
    return Curve(losses, {name: solution for name, (_, solution) in solved.items()})


def between(grids: Mapping[str, Grid]) -> dict[str, tuple[str, str]]:
    """Grids whose losses are the geometric mean of two others', by name: 3 bits between 4 and 2."""
    named = {grid: name for name, grid in grids.items()}
    found = {
        name: (named.get(replace(grid, bits=4), ""), named.get(replace(grid, bits=2), ""))
        for name, grid in grids.items()
        if grid.bits == 3
    }
    return {name: pair for name, pair in found.items() if all(pair)}


def some_channels(bench: Bench) -> Bench:
    """The same with `CHANNELS` output channels, evenly spaced; itself where there are hardly more."""
    groups, _, cols = bench.weight.shape
    if groups * cols <= 2 * CHANNELS:
        return bench
    kept = np.linspace(0, groups - 1, min(groups, CHANNELS)).astype(int)
    columns = np.linspace(0, cols - 1, min(cols, max(1, CHANNELS // groups))).astype(int)
    stats = bench.stats if bench.stats is None else of_groups(bench.stats, kept)
    return replace(bench, weight=bench.weight[kept][:, :, columns], stats=stats)


def damping_of(bench: Bench) -> Array | None:
    """How far the Gram of the samples that are solved on is trusted, by group; None for an embedding."""
    if bench.stats is None:
        return None
    seen, _ = parts_of(bench.stats)
    one = Problem(bench.weight[:, :, :1], seen, Grid(4), bench.scale_dtype)
    posed = pose(one, bench.compensate, bench.engine.backend.xp)
    with single_threaded_blas():
        return chosen(bench.stats, posed, bench.compensate, bench.engine)


def parts_of(stats: InputStats) -> tuple[InputStats, InputStats]:
    """What is solved on, and what judges."""
    return halves(stats) if stats.half is not None else (stats, stats)


def trial(bench: Bench, grid: Grid, damping: Array | None) -> tuple[float, Solution]:
    """Loss and solution on `grid`; `damping` may be that of a layer with more groups."""
    weight, engine, compensate = bench.weight, bench.engine, bench.compensate
    if bench.stats is None or damping is None:
        return _lookup(bench, grid)
    seen, unseen = parts_of(bench.stats)
    with single_threaded_blas():
        posed = pose(Problem(weight, seen, grid, bench.scale_dtype), compensate, engine.backend.xp)
        answer, _, note = comq.solve(posed, damping[: len(weight)], engine, HURRIED)
        codes, scale, zero = unposed(posed, answer)
        error = weight - dequantize(codes, scale, zero, grid)
        bias = compensating(seen, weight, error) if compensate else None
        total, lost = (
            float(unseen_error(each.swapaxes(1, 2), seen, unseen, compensate).sum())
            for each in (weight, error)
        )
    solution = Solution(grid, codes, scale, zero, bias, NOT_MEASURED, note)
    return max(lost, 0.0) / total if total > 0 else 0.0, solution


def _lookup(bench: Bench, grid: Grid) -> tuple[float, Solution]:
    solver = "rtn" if grid.bits == 8 else "rtn-searched"
    problem = Problem(bench.weight, None, grid, bench.scale_dtype)
    solution = solve_layer(problem, solver, False, engine=bench.engine)
    quality = solution.quality
    return quality.solved / quality.signal if quality.signal > 0 else 0.0, solution
