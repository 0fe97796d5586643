"""What a layer loses on each grid, from one Gram: solved in a hurry on half of the samples, judged on the
other half.

In-sample losses are of no use here: fewer samples than a classifier has inputs leave directions that cost
nothing, 2-bit codes use them up, and new samples pay for it. Few grids are solved on the whole layer; the
others on some of its output channels, where their losses are compared with those of the few.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.grid import Grid, dequantize
from comq_onnx.moments import halves, of_groups
from comq_onnx.records import InputStats, Problem, Quality, Solution
from comq_onnx.solve import comq
from comq_onnx.solve.damping import chosen, unseen_error
from comq_onnx.solve.effort import Settings
from comq_onnx.solve.factor import Ordered, on_grid, ordered
from comq_onnx.solve.layer import compensating, solve_layer, unposed
from comq_onnx.solve.panels import taken
from comq_onnx.solve.pose import Posed, pose

HURRIED = Settings(rounds=((1.0,),), kicks=0, sweeps=1, guarded=False)
"""One rounding with feedback and one sweep; its losses rank grids as the full solve's do"""
NEIGHBOURS = {6: (8, 4), 5: (6, 4), 3: (4, 2)}
"""Bits of grids that those of so many bits lie between"""
CHANNELS = 64
"""Output channels that losses are compared on, evenly spaced"""
NOT_MEASURED = Quality(0.0, 0.0, 0.0)
Trial = Callable[[Grid], tuple[float, Solution]]
"""Loss and solution on a grid"""


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


@dataclass(frozen=True)
class Ground:
    """What all grids of a layer share."""

    weight: np.ndarray
    """``(groups, rows, cols)``"""
    seen: InputStats
    """What is solved on"""
    unseen: InputStats
    """What judges"""
    posed: Posed
    """Of `seen`, on any grid"""
    ordered: Ordered
    signal: float
    """``E||Wᵀx||^2`` on `unseen`"""


def curve(bench: Bench, grids: Mapping[str, Grid], anchors: Sequence[str]) -> Curve:
    """The loss of a layer on each of `grids`; `anchors` names those that are solved on all of its channels.

    `bench.stats` has a half held out; without one, losses are those of the samples that were solved on. It
    is None for an embedding, which meets one-hot inputs.
    """
    trials = _lookups(bench, grids) if bench.stats is None else _trials(bench, bench.stats, grids)
    on_all, on_some = trials
    solved = {name: on_all(grids[name]) for name in anchors}
    losses = {name: loss for name, (loss, _) in solved.items()}
    within = between(grids)
    tried = dict(losses) if on_some is on_all else {}
    for name in sorted(grids.keys() - within.keys() - tried.keys()):
        tried[name], _ = on_some(grids[name])
    for name in tried.keys() - losses.keys():
        near = min(anchors, key=lambda other: abs(grids[other].bits - grids[name].bits))
        losses[name] = losses[near] * (tried[name] / tried[near] if tried[near] > 0 else 1.0)
    for name, (one, other) in within.items():
        losses.setdefault(name, float(np.sqrt(losses[one] * losses[other])))
    return Curve(losses, {name: solution for name, (_, solution) in solved.items()})


def between(grids: Mapping[str, Grid]) -> dict[str, tuple[str, str]]:
    """Grids whose losses are the geometric mean of two others', by name, each after those it needs.

    A middle size of block lies between the largest and the smallest; 6 bits lie between 8 and 4, 5 between 6
    and 4, 3 between 4 and 2, of the same blocks, or of the largest where there are none of those.
    """
    named = {grid: name for name, grid in grids.items()}
    largest: dict[int, str] = {}
    for name, grid in sorted(grids.items(), key=lambda item: _fineness(item[1])):
        if grid.granularity != "tensor":
            largest.setdefault(grid.bits, name)
    found = {}
    for bits in (4, 2):
        listed = sorted((grid for grid in named if grid.bits == bits), key=_fineness)
        if len(listed) == 3 and listed[-1].granularity == "block":
            coarse, middle, fine = (named[grid] for grid in listed)
            found[middle] = (coarse, fine)
    for name, grid in grids.items():
        pair = tuple(
            named.get(replace(grid, bits=bits), largest.get(bits, ""))
            for bits in NEIGHBOURS.get(grid.bits, ())
        )
        if pair and all(pair):
            found[name] = pair
    return found


def _fineness(grid: Grid) -> float:
    """Grids in this order have ever more scales."""
    return -grid.block_size if grid.granularity == "block" else -np.inf


def some_channels(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Groups and columns of about `CHANNELS` channels, evenly spaced; None where there are hardly more."""
    groups, _, cols = weight.shape
    if groups * cols <= 2 * CHANNELS:
        return None
    kept = np.linspace(0, groups - 1, min(groups, CHANNELS)).astype(int)
    return kept, np.linspace(0, cols - 1, min(cols, max(1, CHANNELS // groups))).astype(int)


def _trials(bench: Bench, stats: InputStats, grids: Mapping[str, Grid]) -> tuple[Trial, Trial]:
    """Loss and solution on a grid: of the whole layer, and of some of its channels."""
    with single_threaded_blas():
        whole = ground(bench, stats, next(iter(grids.values())))
        some = some_channels(bench.weight)
        part = whole if some is None else narrowed(whole, *some, bench.compensate)
    on_all = partial(trial, bench, whole)
    return on_all, on_all if part is whole else partial(trial, bench, part)


def ground(bench: Bench, stats: InputStats, grid: Grid) -> Ground:
    """The layer's Gram, damped and factored; `grid` has a scale for each channel or block."""
    seen, unseen = halves(stats) if stats.half is not None else (stats, stats)
    posed = pose(
        Problem(bench.weight, seen, grid, bench.scale_dtype), bench.compensate, bench.engine.backend.xp
    )
    damping = chosen(stats, posed, bench.compensate, bench.engine)
    problem = ordered(posed, damping, bench.engine.backend)
    signal = lost_on(unseen, bench.weight, seen, bench.compensate)
    return Ground(bench.weight, seen, unseen, posed, problem, signal)


def narrowed(whole: Ground, groups: np.ndarray, cols: np.ndarray, compensate: bool) -> Ground:
    """Some groups and columns of a layer. Columns never interact, and groups neither."""
    weight = np.ascontiguousarray(whole.weight[groups][:, :, cols])
    seen, unseen = of_groups(whole.seen, groups), of_groups(whole.unseen, groups)
    posed, problem = whole.posed, whole.ordered
    if len(groups) < len(whole.weight):
        some = posed.xp.asarray(groups)
        posed, problem = taken(posed, some, slice(None)), problem.part(some)
    posed = taken(posed, slice(None), posed.xp.asarray(cols))
    return Ground(weight, seen, unseen, posed, problem, lost_on(unseen, weight, seen, compensate))


def lost_on(unseen: InputStats, error: np.ndarray, seen: InputStats, compensate: bool) -> float:
    """``E||errorᵀx||^2`` on `unseen`, with the bias that is best on `seen` taken out."""
    return float(unseen_error(error.swapaxes(1, 2), seen, unseen, compensate).sum())


def trial(bench: Bench, on: Ground, grid: Grid) -> tuple[float, Solution]:
    """Loss and solution of `on` on `grid`."""
    engine, compensate = bench.engine, bench.compensate
    posed = replace(on.posed, grid=grid)
    with single_threaded_blas():
        answer, _, note = comq.solve_ordered(posed, on_grid(on.ordered, posed), engine, HURRIED)
        codes, scale, zero = unposed(posed, answer)
        error = on.weight - dequantize(codes, scale, zero, grid)
        bias = compensating(on.seen, on.weight, error) if compensate else None
        lost = lost_on(on.unseen, error, on.seen, compensate)
    solution = Solution(grid, codes, scale, zero, bias, NOT_MEASURED, note)
    return max(lost, 0.0) / on.signal if on.signal > 0 else 0.0, solution


def _lookups(bench: Bench, grids: Mapping[str, Grid]) -> tuple[Trial, Trial]:
    """As `_trials`, of an embedding: its rows are read one by one, so that each counts the same."""
    some = some_channels(bench.weight)
    whole = partial(_lookup, bench)
    if some is None:
        return whole, whole
    groups, cols = some
    return whole, partial(_lookup, replace(bench, weight=bench.weight[groups][:, :, cols]))


def _lookup(bench: Bench, grid: Grid) -> tuple[float, Solution]:
    solver = "rtn" if grid.bits == 8 else "rtn-searched"
    problem = Problem(bench.weight, None, grid, bench.scale_dtype)
    solution = solve_layer(problem, solver, False, engine=bench.engine)
    quality = solution.quality
    return quality.solved / quality.signal if quality.signal > 0 else 0.0, solution
