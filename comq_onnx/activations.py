"""Grids for activations that are stored in 8 bits, from what the quantized weights make of the samples."""

from collections.abc import Sequence
from functools import partial

from onnx import ModelProto

from comq_onnx.graph.io import load, to_proto
from comq_onnx.layerwise import Solved
from comq_onnx.planning import Opened, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import Placed, ValueGrid
from comq_onnx.stats.histogram import merged
from comq_onnx.stats.ranges import choose_grid
from comq_onnx.stats.values import watch
from comq_onnx.targets import TARGETS
from comq_onnx.targets.fakequant import put_floats


def choose_values(
    opened: Opened, solved: Solved, recipe: Recipe, progress: Progress = silent
) -> dict[str, ValueGrid]:
    """The grid of every tensor that the plan stores in 8 bits, by name; nothing where it stores none."""
    placed = opened.plan.placement.values
    rules = TARGETS[recipe.target].activations(recipe, not opened.calibration.synthetic)
    if not placed or rules is None:
        return {}
    names = [value.tensor for value in placed]
    model = quantized_floats(opened, solved)
    seen = watch(model, names, opened.calibration, recipe, partial(progress, "range"))
    grids = {}
    for members in grouped(placed):
        histogram = merged(seen[value.tensor] for value in members)
        # What one absorbed Clip allows, another of the group may not.
        low, high = min(value.low for value in members), max(value.high for value in members)
        grid = choose_grid(histogram, rules.kind, recipe.calibration_method, low, high)
        grids |= {value.tensor: grid for value in members}
    return grids


def quantized_floats(opened: Opened, solved: Solved) -> ModelProto:
    """The prepared model with the weights and biases that were solved, in floating point."""
    model = load(opened.plan.prepared)
    put_floats(model, opened.plan.layers, solved.solutions)
    return to_proto(model)


def grouped(placed: Sequence[Placed]) -> list[list[Placed]]:
    """Values that share a grid, together; in the order of their first."""
    groups: dict[str, list[Placed]] = {}
    for value in placed:
        groups.setdefault(value.group, []).append(value)
    return list(groups.values())
