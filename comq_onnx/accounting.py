"""What is told of a choice of storages: its effect, what more would buy, and networks of other sizes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from comq_onnx.allocate.allocation import Allocation, Point, Price
from comq_onnx.allocate.knapsack import Limit, choose
from comq_onnx.caution import measured
from comq_onnx.graph.rules import governed
from comq_onnx.planning import ends
from comq_onnx.pricing import Bed
from comq_onnx.stakes import SIZE, Problem, uniform_choice

SHARES = (0.3, 0.65)
"""Of the way from the smallest to the largest file, for the picture"""


def account_of(
    problem: Problem,
    bed: Bed,
    chosen: tuple[Sequence[int], Sequence[tuple[str, Limit]]],
    size: int,
    rules: Sequence[str],
) -> Allocation:
    """What is told of the choice."""
    choice, limits = chosen
    alike = problem.uniform
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
        samples=len(bed.samples[:: bed.every]),
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
    where = "1 layer" if len(moved) == 1 else f"{len(moved)} layers"
    return f"One more per cent of budget would lower the predicted error by {gain:.1%}, in {where}."


def points_of(problem: Problem, bed: Bed, choice: Sequence[int]) -> list[Point]:
    """Networks of one width and allocated ones, measured with the hurried solutions."""
    found = []
    for bits in ("int8", "int4", "int3", "int2"):
        alike = uniform_choice(problem, bits)
        if all(c.name.split()[0] in (bits, "int8") for c in alike):
            names = {one.layer.name: c.name for one, c in zip(problem.priced, alike, strict=True)}
            found.append(measured(problem, bed, f"uniform {bits}", names))
    least, most = (sum(float(f(s)) for s in problem.sizes) for f in (np.min, codes_at_most))
    for share in SHARES:
        trial = choose(problem.costs, [Limit(problem.sizes, least + share * (most - least))])
        if trial is not None:
            found.append(measured(problem, bed, "allocated", problem.names(trial)))
    return [*found, measured(problem, bed, "chosen", problem.names(choice))]


def codes_at_most(sizes: np.ndarray) -> float:
    """Bytes of the widest codes of a layer, floats left out; the first two candidates are floats."""
    return float(np.sort(sizes)[::-1][min(2, len(sizes) - 1)])
