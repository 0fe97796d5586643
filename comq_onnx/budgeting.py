"""Budgets: which layer has how many bits, so that the network's error is least and the budget is kept.

The float network is run once for statistics; every layer's loss on every grid and its dual price are measured
(`pricing`); an integer program chooses (`allocate.knapsack`). The choice becomes rules, as a user could have
written them, and the plan is made again with these: the run that follows knows nothing of budgets.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from comq_onnx.allocate.allocation import Allocation, Candidate, Point, Price
from comq_onnx.allocate.knapsack import Limit, check_solver, choose
from comq_onnx.allocate.storage import storages
from comq_onnx.budget import parse_size
from comq_onnx.errors import ComqError
from comq_onnx.evaluate.report import model_bytes
from comq_onnx.graph.rules import governed
from comq_onnx.latency.measure import FIX, latency_refusal, measure_latency
from comq_onnx.latency.model import LatencyModel, parse_latency
from comq_onnx.parallel import survey
from comq_onnx.planning import Opened, Plan, Progress, choose_grids, ends, open_data, plan
from comq_onnx.pricing import Bed, Priced, price_layers
from comq_onnx.recipe import Recipe
from comq_onnx.targets.size import file_bytes

Model = str | Path | onnx.ModelProto
SIZE = "--target-size"
TRIES = 10
STAMP = 1024
"""Bytes for the names of the calibration and the version in the file's metadata; the recipe's come on top"""
SHARES = (0.3, 0.65)
"""Of the way from the smallest to the largest file, for the picture"""


@dataclass(frozen=True)
class Problem:
    """Layers with their candidates, and what their storages may take."""

    opened: Opened
    recipe: Recipe
    priced: Sequence[Priced]
    fixed: int
    """Bytes of the file that no choice changes"""
    latency: LatencyModel | None

    @property
    def sizes(self) -> list[np.ndarray]:
        return [np.array([c.bytes for c in one.candidates], dtype=np.float64) for one in self.priced]

    @property
    def costs(self) -> list[np.ndarray]:
        return [np.array([c.effect for c in one.candidates]) for one in self.priced]

    @property
    def seconds(self) -> list[np.ndarray]:
        """By layer and candidate; where latency counts."""
        if self.latency is None:
            return []
        return [
            np.array([self.latency.layers[one.layer.name][c.name] for c in one.candidates])
            for one in self.priced
        ]

    def names(self, choice: Sequence[int]) -> dict[str, str]:
        return {
            one.layer.name: one.candidates[pick].name for one, pick in zip(self.priced, choice, strict=True)
        }

    def effect(self, choice: Sequence[int]) -> float:
        return float(sum(cost[pick] for cost, pick in zip(self.costs, choice, strict=True)))

    def rules(self, choice: Sequence[int]) -> tuple[str, ...]:
        picked = zip(self.priced, choice, strict=True)
        return tuple(f"^{re.escape(one.layer.name)}$={one.candidates[pick].width}" for one, pick in picked)


def settle_budget(
    model: Model, data: Any, opened: Opened, recipe: Recipe, progress: Progress
) -> tuple[Opened, Recipe, Allocation]:
    """Choose storages within the recipe's budget: the run as planned with them, its recipe, and the account.

    ComqError where the budget cannot be kept, and by how much.
    """
    started = time.monotonic()
    check_solver()
    if recipe.target_latency and (why := latency_refusal(recipe)):
        raise ComqError(why, where="--target-latency", fix=FIX)
    problem, bed = pose_problem(opened, recipe, progress)
    limits = limits_of(problem)
    for _ in range(TRIES):
        choice = within(problem, limits)
        final = replace(recipe, rules=(*problem.rules(choice), *recipe.rules), **NO_BUDGET)
        planned = plan(model, final, not opened.calibration.synthetic)
        size = bytes_of(planned, final)
        excess = excess_of(problem, size)
        if excess <= 0:
            break
        # Names of nodes and shapes take bytes too, which no sum over layers knows.
        limits = [
            (flag, replace(limit, budget=limit.budget - excess)) if flag == SIZE else (flag, limit)
            for flag, limit in limits
        ]
    else:
        raise ComqError("the file stays larger than asked for", where=SIZE, fix="ask for a larger one")
    account = account_of(problem, bed, (choice, limits), size, final.rules)
    planned = open_data(planned, data, final)
    return planned, final, replace(account, seconds=time.monotonic() - started)


NO_BUDGET: dict[str, Any] = {
    "target_size": "",
    "avg_bits": 0.0,
    "target_latency": "",
    "max_drop": "",
    "metric": "",
}


def pose_problem(opened: Opened, recipe: Recipe, progress: Progress) -> tuple[Problem, Bed]:
    """Measure all that the choice depends on."""
    surveyed = survey(opened, recipe, progress)
    stats = surveyed.collected.stats
    own = governed(opened.plan.layers, recipe)
    wide = ends(opened.plan.layers, recipe)
    open_ = [
        layer
        for layer in opened.plan.layers
        if layer.name not in own
        and layer.name not in wide
        and not layer.in_subgraph
        and (layer.op == "Gather" or stats[layer.name] is not None)
    ]
    if not open_:
        raise ComqError(
            "no layer is left to be chosen for",
            where="budget",
            fix="leave out some rules, or give --calibration-data that reaches the layers",
        )
    plan_ = opened.plan
    options = storages(plan_.prepared, plan_.layers, open_, recipe, plan_.placement)
    bed, priced = price_layers(opened, stats, options, recipe, progress)
    grids, _ = choose_grids(plan_.layers, recipe, plan_.placement)
    whole = file_bytes(plan_.prepared, plan_.layers, grids, recipe, plan_.placement, plan_.halved)
    now = sum(uniform_of(one, str(grids[one.layer.name])).bytes for one in priced)
    latency = None
    if recipe.target_latency:
        wanted = {name: [s.grid for s in listed if s.grid] for name, listed in options.items()}
        latency = measure_latency(opened, wanted, recipe, progress)
    return Problem(opened, recipe, priced, whole - now, latency), bed


def uniform_of(one: Priced, name: str) -> Candidate:
    """The candidate on the grid called `name`; one of the same bits where that is not listed by itself."""
    exact = [c for c in one.candidates if c.name == name]
    same = [c for c in one.candidates if c.name.split()[0] == name.split()[0]]
    return (exact or same or list(one.candidates))[0]


def uniform_effect(problem: Problem) -> float:
    """The sum of effects of the network that has one width, `weights`."""
    plan_ = problem.opened.plan
    grids, _ = choose_grids(plan_.layers, problem.recipe, plan_.placement)
    return float(sum(uniform_of(one, str(grids[one.layer.name])).effect for one in problem.priced))


def limits_of(problem: Problem) -> list[tuple[str, Limit]]:
    """The budgets as limits, each with the flag that it comes from."""
    recipe, found = problem.recipe, []
    metadata = metadata_bytes(recipe)
    if recipe.target_size:
        found.append((SIZE, Limit(problem.sizes, asked_bytes(problem) - problem.fixed - metadata)))
    if recipe.avg_bits:
        weights = sum(int(np.prod(one.layer.layout.shape)) for one in problem.priced)
        biases = 4 * sum(bias_size(one) for one in problem.priced) if recipe.compensate else 0
        found.append(("--avg-bits", Limit(problem.sizes, recipe.avg_bits * weights / 8 - biases)))
    if recipe.target_latency and problem.latency:
        asked = parse_latency(recipe.target_latency).seconds(problem.latency.seconds({}))
        found.append(("--target-latency", Limit(problem.seconds, asked - problem.latency.rest)))
    return found


def bias_size(one: Priced) -> int:
    """Numbers in the compensating bias of a layer."""
    return 0 if one.layer.op == "Gather" else one.layer.layout.groups * one.layer.layout.cols


def within(problem: Problem, limits: Sequence[tuple[str, Limit]]) -> list[int]:
    """The best choice within all limits. ComqError where there is none."""
    for flag, limit in limits:
        if limit.least > limit.budget:
            raise ComqError(
                f"the budget cannot be kept: the least possible is {over(flag, limit, problem)}",
                where=flag,
                fix="raise it"
                if packs_two_bits(problem)
                else "raise it, or use --target ort, which packs 2-bit codes",
            )
    choice = choose(problem.costs, [limit for _, limit in limits])
    if choice is None:
        raise ComqError(
            "the budgets cannot be kept together, though each of them can",
            where=", ".join(flag for flag, _ in limits),
            fix="raise one of them",
        )
    return choice


def packs_two_bits(problem: Problem) -> bool:
    """Whether 2-bit codes take less than 4-bit ones in some layer's file."""
    sizes = [
        {one.width: one.bytes for one in priced.candidates if one.width in ("int4", "int2")}
        for priced in problem.priced
    ]
    return any(len(size) == 2 and size["int2"] < size["int4"] for size in sizes)


def over(flag: str, limit: Limit, problem: Problem) -> str:
    """By how much a budget is too small, in its own unit."""
    excess = limit.least - limit.budget
    if flag == "--avg-bits":
        weights = sum(int(np.prod(one.layer.layout.shape)) for one in problem.priced)
        return f"{8 * excess / weights:.2f} bits for each weight above it"
    return f"{excess:,.0f} bytes above it" if flag == SIZE else f"{1e3 * excess:.2f} ms above it"


def excess_of(problem: Problem, size: int) -> float:
    """Bytes by which a file of `size`, and its metadata, are larger than asked for."""
    if not problem.recipe.target_size:
        return 0.0
    return size + metadata_bytes(problem.recipe) - asked_bytes(problem)


def asked_bytes(problem: Problem) -> float:
    """What ``--target-size`` comes to."""
    return parse_size(problem.recipe.target_size).of(model_bytes(problem.opened.plan.source))


def metadata_bytes(recipe: Recipe) -> int:
    """Of how the file was made, at most."""
    return STAMP + len(recipe.as_json())


def bytes_of(made: Plan, recipe: Recipe) -> int:
    return file_bytes(made.prepared, made.layers, made.grids, recipe, made.placement, made.halved)


def account_of(
    problem: Problem,
    bed: Bed,
    chosen: tuple[Sequence[int], Sequence[tuple[str, Limit]]],
    size: int,
    rules: Sequence[str],
) -> Allocation:
    """What is told of the choice."""
    (choice, limits), plan_ = chosen, problem.opened.plan
    grids, _ = choose_grids(plan_.layers, problem.recipe, plan_.placement)
    alike = [uniform_of(one, str(grids[one.layer.name])) for one in problem.priced]
    asked = {SIZE: problem.recipe.target_size, "--avg-bits": f"{problem.recipe.avg_bits:g}"}
    asked |= {"--target-latency": problem.recipe.target_latency, "--max-drop": problem.recipe.max_drop}
    names = problem.names(choice)
    return Allocation(
        measure="KL divergence" if any(one.classes for one in bed.what) else "relative error",
        budget=f"{', '.join(f'{flag} {asked[flag]}' for flag, _ in limits)}: about {size:,} bytes.",
        file_bytes=size,
        effect=problem.effect(choice),
        uniform=(
            problem.recipe.weights,
            problem.fixed + sum(c.bytes for c in alike),
            float(sum(c.effect for c in alike)),
        ),
        next_percent=next_percent(problem, choice, limits),
        samples=len(bed.samples),
        seconds=0.0,
        prices=tuple(
            Price(one.layer.name, one.price, one.uncertainty, one.candidates, names[one.layer.name])
            for one in problem.priced
        ),
        points=tuple(points_of(problem, bed, choice)),
        notes=left_out(problem),
        rules=tuple(rules),
    )


def left_out(problem: Problem) -> tuple[str, ...]:
    """Layers that the budget does not choose for although nobody said so."""
    plan_, recipe = problem.opened.plan, problem.recipe
    said = {one.layer.name for one in problem.priced} | governed(plan_.layers, recipe).keys()
    others = [la.name for la in plan_.layers if la.name not in said | ends(plan_.layers, recipe)]
    if not others:
        return ()
    why = "no activation is seen there, so their price is unknown"
    return (f"{len(others)} layers stay {recipe.weights} whatever the budget ({why}): {', '.join(others)}",)


def next_percent(problem: Problem, choice: Sequence[int], limits: Sequence[tuple[str, Limit]]) -> str:
    """What a budget of one per cent more would buy."""
    more = [replace(limit, budget=limit.budget * 1.01) for _, limit in limits]
    better = choose(problem.costs, more)
    before = problem.effect(choice)
    if better is None or before <= 0 or problem.effect(better) >= before:
        return "One more per cent of budget would buy nothing."
    gain = 1 - problem.effect(better) / before
    moved = [name for name, at in problem.names(better).items() if at != problem.names(choice)[name]]
    return (
        f"One more per cent of budget would lower the predicted error by {gain:.1%}, in {len(moved)} layers."
    )


def points_of(problem: Problem, bed: Bed, choice: Sequence[int]) -> list[Point]:
    """Networks of one width and allocated ones, measured with the hurried solutions."""
    found, plan_ = [], problem.opened.plan
    for bits in ("int8", "int4", "int3", "int2"):
        grids, _ = choose_grids(plan_.layers, replace(problem.recipe, weights=bits), plan_.placement)
        alike = {one.layer.name: uniform_of(one, str(grids[one.layer.name])) for one in problem.priced}
        if all(c.name.split()[0] in (bits, "int8") for c in alike.values()):
            found.append(measured(problem, bed, f"uniform {bits}", {n: c.name for n, c in alike.items()}))
    least, most = (sum(float(f(s)) for s in problem.sizes) for f in (np.min, codes_at_most))
    for share in SHARES:
        trial = choose(problem.costs, [Limit(problem.sizes, least + share * (most - least))])
        if trial is not None:
            found.append(measured(problem, bed, "allocated", problem.names(trial)))
    return [*found, measured(problem, bed, "chosen", problem.names(choice))]


def codes_at_most(sizes: np.ndarray) -> float:
    """Bytes of the widest codes of a layer, floats left out; the first two candidates are floats."""
    return float(np.sort(sizes)[::-1][min(2, len(sizes) - 1)])


def measured(problem: Problem, bed: Bed, kind: str, names: Mapping[str, str]) -> Point:
    chosen = [(one, names[one.layer.name]) for one in problem.priced]
    size = problem.fixed + sum(one.candidate(name).bytes for one, name in chosen)
    return bed.point(kind, int(size), chosen)
