"""Which activations have two ranges, and what the user is told of them."""

from collections.abc import Mapping
from functools import partial

from comq_onnx.activations import quantized_floats
from comq_onnx.graph.io import load
from comq_onnx.layerwise import Solved
from comq_onnx.planning import Opened, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import TwinGrid, ValueGrid
from comq_onnx.stats.twin import choose_twin
from comq_onnx.stats.values import watch
from comq_onnx.targets.twin import twin_readers

TWINS = (
    "--twin-ranges: {count} of {total} values behind Softmax and Gelu have two ranges, and what reads them "
    "is computed as two products, which takes longer; squared error is divided by the number in brackets: "
    "{which}."
)
NO_TWINS = "--twin-ranges: of {count} values behind Softmax and Gelu, none has less error in two ranges."


def choose_twins(
    opened: Opened,
    solved: Solved,
    recipe: Recipe,
    grids: Mapping[str, ValueGrid],
    progress: Progress = silent,
) -> dict[str, TwinGrid]:
    """Two grids for each value that gains by them, by tensor; nothing where they are not asked for.

    `grids` are what the values would have otherwise.
    """
    names = list(candidates(opened, recipe))
    if not names or not grids:
        return {}
    model = quantized_floats(opened, solved)
    seen = watch(model, names, opened.calibration, recipe, partial(progress, "twin"))
    chosen = ((name, choose_twin(seen[name], grids[name].kind, grids[name])) for name in names)
    return {name: twin for name, twin in chosen if twin is not None}


def candidates(opened: Opened, recipe: Recipe) -> dict[str, str]:
    """Values that may have two ranges, and the products that read them."""
    if not recipe.twin_ranges:
        return {}
    return twin_readers(load(opened.plan.prepared), opened.plan.placement)


def twin_notes(opened: Opened, recipe: Recipe, twins: Mapping[str, TwinGrid]) -> tuple[str, ...]:
    """A sentence that names the products that were split, or says that none was."""
    if not recipe.twin_ranges:
        return ()
    readers = candidates(opened, recipe)
    if not twins:
        return (NO_TWINS.format(count=len(readers)),)
    which = ", ".join(f"{readers[name]} ({twin.gain:.1f})" for name, twin in twins.items())
    return (TWINS.format(count=len(twins), total=len(readers), which=which),)
