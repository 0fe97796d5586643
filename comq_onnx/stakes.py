"""The choice of a storage for each layer, posed: what it costs the network, and what of the budgets.

The float network is run once for statistics; every layer's loss on every grid and its dual price are measured
(`pricing`). A choice becomes rules, as a user could have written them.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from comq_onnx.allocate.allocation import Candidate
from comq_onnx.allocate.knapsack import Limit, choose
from comq_onnx.allocate.storage import storages
from comq_onnx.budget import parse_size
from comq_onnx.errors import ComqError
from comq_onnx.evaluate.room import model_bytes
from comq_onnx.graph.rules import governed
from comq_onnx.latency.measure import measure_latency
from comq_onnx.latency.model import LatencyModel, parse_latency
from comq_onnx.parallel import survey
from comq_onnx.planning import Opened, Plan, Progress, choose_grids, describe, ends
from comq_onnx.pricing import Bed, Priced, price_layers, with_unlike_halves
from comq_onnx.recipe import Recipe
from comq_onnx.targets.size import file_bytes

Model = str | Path | onnx.ModelProto
SIZE = "--target-size"
STAMP = 1024
"""Bytes for the names of the calibration and the version in the file's metadata; the recipe's come on top"""
THIN, LEAST = 3, 16
"""For curves, convolutions are looked at in one sample of so many, but in so many samples at least."""


@dataclass(frozen=True)
class Problem:
    """Layers with their candidates, and what their storages may take."""

    opened: Opened
    recipe: Recipe
    priced: Sequence[Priced]
    fixed: int
    """Bytes of the file that no choice changes"""
    latency: LatencyModel | None
    caution: float = 1.0
    """How much more the errors of codes narrower than the uniform ones are held to cost than prices say"""

    @property
    def sizes(self) -> list[np.ndarray]:
        return [np.array([c.bytes for c in one.candidates], dtype=np.float64) for one in self.priced]

    @property
    def effects(self) -> list[np.ndarray]:
        """What prices say, by layer and candidate."""
        return [np.array([c.effect for c in one.candidates]) for one in self.priced]

    @cached_property
    def uniform(self) -> Sequence[Candidate]:
        """By layer, the candidate of the network that has one width, `weights`."""
        return uniform_choice(self)

    @property
    def costs(self) -> list[np.ndarray]:
        """What the choice goes by: effects, with caution."""
        alike = zip(self.priced, self.uniform, strict=True)
        careful = [
            [self.caution if c.bytes < same.bytes else 1.0 for c in one.candidates] for one, same in alike
        ]
        return [effect * factor for effect, factor in zip(self.effects, careful, strict=True)]

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
        return float(sum(effect[pick] for effect, pick in zip(self.effects, choice, strict=True)))

    def rules(self, choice: Sequence[int]) -> tuple[str, ...]:
        picked = zip(self.priced, choice, strict=True)
        return tuple(f"^{re.escape(one.layer.name)}$={one.candidates[pick].width}" for one, pick in picked)


NO_BUDGET: dict[str, Any] = {
    "target_size": "",
    "avg_bits": 0.0,
    "target_latency": "",
    "max_drop": "",
    "metric": "",
}


def pose_problem(opened: Opened, recipe: Recipe, progress: Progress) -> tuple[Problem, Bed]:
    """Measure all that the choice depends on."""
    plan_ = opened.plan
    own, wide = governed(plan_.layers, recipe), ends(plan_.layers, recipe)
    able = [la for la in plan_.layers if la.name not in own and la.name not in wide and not la.in_subgraph]
    with ThreadPoolExecutor(1) as beside:  # the model runs meanwhile
        listed = beside.submit(storages, plan_.prepared, plan_.layers, able, recipe, plan_.placement)
        measured = with_unlike_halves(opened, recipe)
        thin = max(1, min(THIN, measured.calibration.samples // LEAST))
        stats = survey(measured, recipe, progress, thin).collected.stats
        options = listed.result()
    open_ = [layer for layer in able if layer.op == "Gather" or stats[layer.name] is not None]
    if not open_:
        raise ComqError(
            "no layer is left to be chosen for",
            where="budget",
            fix="leave out some rules, or give --calibration-data that reaches the layers",
        )
    options = {layer.name: options[layer.name] for layer in open_}
    bed, priced = price_layers(measured, stats, options, recipe, progress)
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


def uniform_choice(problem: Problem, width: str = "") -> list[Candidate]:
    """By layer, the candidate of the network that has one width, by default the recipe's `weights`."""
    plan_, recipe = problem.opened.plan, problem.recipe
    changed: dict[str, Any] = {"weights": width or recipe.weights}
    grids, _ = choose_grids(plan_.layers, replace(recipe, **changed), plan_.placement)
    return [uniform_of(one, str(grids[one.layer.name])) for one in problem.priced]


def uniform_effect(problem: Problem) -> float:
    """The sum of effects of the network that has one width, `weights`."""
    return float(sum(one.effect for one in problem.uniform))


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


def check_anything(problem: Problem, choice: Sequence[int]) -> None:
    """ComqError where the budget is kept with every layer in floating point."""
    picked = [one.candidates[pick].width for one, pick in zip(problem.priced, choice, strict=True)]
    if len(picked) == len(problem.opened.plan.layers) and set(picked) <= {"float", "float16"}:
        size = model_bytes(problem.opened.plan.source)
        half = " with some weights in float16" if "float16" in picked else ""
        raise ComqError(
            f"the model of {size:,} bytes keeps the budget{half}, so nothing is to be quantized",
            where=describe(problem.opened.plan.source),
            fix="ask for less, or leave the budget out",
        )


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
