"""Every layer on the inputs that the float network makes: one pass over the data, then all layers at once."""

from dataclasses import dataclass
from functools import partial

from comq_onnx.backends.engine import open_engine
from comq_onnx.evaluate.work import solving
from comq_onnx.graph.io import load
from comq_onnx.layerwise import Solved, solve_layers
from comq_onnx.meter import Meter
from comq_onnx.planning import Opened, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import Solution
from comq_onnx.resume import Journal
from comq_onnx.stats.collect import Collected, collect


@dataclass(frozen=True)
class Survey:
    """The statistics of one float pass; good for many recipes on the same model and data."""

    opened: Opened
    collected: Collected


def survey(opened: Opened, recipe: Recipe, progress: Progress = silent, thin: int = 1) -> Survey:
    """Run the float model once over the samples and sum what its layers see, convolutions in one sample of
    `thin`."""
    told = partial(progress, "calibrate")
    engine = open_engine(recipe.device, recipe.threads)
    ready = load(opened.plan.prepared)
    collected = collect(
        ready, opened.plan.layers, opened.calibration, recipe, told, engine, recipe.run_device, thin
    )
    return Survey(opened, collected)


def solve_all(
    survey_: Survey, recipe: Recipe, progress: Progress = silent, journal: Journal | None = None
) -> Solved:
    """Codes, scales and biases of every layer that `journal` does not hold; it is given them."""
    plan = survey_.opened.plan
    model, engine = load(plan.prepared), open_engine(recipe.device, recipe.threads)
    grids = plan.grids
    solutions: dict[str, Solution] = {}
    seconds: dict[str, float] = {}
    for layer in plan.layers:
        if journal and (found := journal.get(layer.name)):
            solutions[layer.name], _, seconds[layer.name] = found
    missing = [layer for layer in plan.layers if layer.name not in solutions]
    solve_work = {la.name: solving(la, grids[la.name], recipe, drifting=False) for la in missing}
    meter = Meter(partial(progress, "solve"), sum(solve_work.values()))

    def keep(name: str, solution: Solution, spent: float) -> None:
        solutions[name], seconds[name] = solution, spent
        if journal:
            journal.put(name, solution, None, spent)
        meter.add(solve_work[name])

    solve_layers(model, missing, survey_.collected.stats, grids, (recipe, engine), keep)
    meter.finish()
    ordered = {layer.name: solutions[layer.name] for layer in plan.layers}
    return Solved(ordered, seconds, survey_.collected.notes)
