"""Every layer on the inputs that the float network makes: one pass over the data, then all layers at once."""

from dataclasses import dataclass
from functools import partial

from comq_onnx.backends.engine import open_engine
from comq_onnx.graph.io import load
from comq_onnx.layerwise import Solved, solve_layers
from comq_onnx.planning import Opened, Progress, choose_grids, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import Solution
from comq_onnx.stats.collect import Collected, collect


@dataclass(frozen=True)
class Survey:
    """The statistics of one float pass; good for many recipes on the same model and data."""

    opened: Opened
    collected: Collected


def survey(opened: Opened, recipe: Recipe, progress: Progress = silent) -> Survey:
    """Run the float model once over the samples and sum what its layers see."""
    told = partial(progress, "calibrate")
    engine = open_engine(recipe.device, recipe.threads)
    ready = load(opened.plan.prepared)
    collected = collect(
        ready, opened.plan.layers, opened.calibration, recipe, told, engine, recipe.run_device
    )
    return Survey(opened, collected)


def solve_all(survey_: Survey, recipe: Recipe, progress: Progress = silent) -> Solved:
    """Codes, scales and biases of every layer."""
    plan = survey_.opened.plan
    model, engine = load(plan.prepared), open_engine(recipe.device, recipe.threads)
    grids, _ = choose_grids(plan.layers, recipe)
    solutions: dict[str, Solution] = {}
    seconds: dict[str, float] = {}
    progress("solve", 0, len(plan.layers))

    def keep(name: str, solution: Solution, spent: float) -> None:
        solutions[name], seconds[name] = solution, spent
        progress("solve", len(solutions), len(plan.layers))

    solve_layers(model, plan.layers, survey_.collected.stats, grids, (recipe, engine), keep)
    ordered = {layer.name: solutions[layer.name] for layer in plan.layers}
    return Solved(ordered, seconds, survey_.collected.notes)
