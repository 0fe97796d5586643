"""Grids for activations that are stored in 8 bits, from what the quantized weights make of the samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from onnx import ModelProto

from comq_onnx.graph.elementwise import function_behind
from comq_onnx.graph.io import load, to_proto
from comq_onnx.grid import dequantize
from comq_onnx.layerwise import Solved
from comq_onnx.planning import Opened, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import ActivationKind, Placed, ValueGrid
from comq_onnx.run.session import SessionOptions, open_session
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.output_error import Reading, choose_by_output
from comq_onnx.stats.ranges import choose_grid
from comq_onnx.stats.through import Function, choose_through
from comq_onnx.stats.values import watch, watch_rows
from comq_onnx.targets import TARGETS
from comq_onnx.targets.fakequant import put_floats

SMALLEST_HALF = 2.0**-14


def choose_values(
    opened: Opened, solved: Solved, recipe: Recipe, progress: Progress = silent
) -> dict[str, ValueGrid]:
    """The grid of every tensor that the plan stores in 8 bits, by name; nothing where it stores none."""
    placed = opened.plan.placement.values
    rules = TARGETS[recipe.target].activations(recipe, not opened.calibration.synthetic)
    if not placed or rules is None:
        return {}
    model, told = quantized_floats(opened, solved), partial(progress, "range")
    seen = watch(model, [value.tensor for value in placed], opened.calibration, recipe, told)
    by_output = recipe.calibration_method == "output-error"
    readings = readings_of(model, opened, solved, recipe) if by_output else {}
    functions = functions_of(model, placed, recipe)
    grids: dict[str, ValueGrid] = {}
    for members in grouped(placed):
        grid = grid_of(members, seen, (readings, functions), rules.kind, recipe)
        if TARGETS[recipe.target].half(recipe):
            grid = in_half(grid)
        grids |= {value.tensor: grid for value in members}
    return grids


def grid_of(
    members: Sequence[Placed],
    seen: Mapping[str, Histogram],
    looks: tuple[Mapping[str, Sequence[Reading]], Mapping[str, Function]],
    kind: ActivationKind,
    recipe: Recipe,
) -> ValueGrid:
    """One grid for values between which operators only move them.

    `looks` are how layers read values, and functions that values are seen through alone.
    """
    readings, functions = looks
    histogram = Histogram()
    for value in members:
        histogram.merge(seen[value.tensor])
    # What the Clip of one allows, that of another of the group may not.
    low, high = min(value.low for value in members), max(value.high for value in members)
    if members[0].tensor in functions:
        return choose_through(histogram, kind, functions[members[0].tensor], low, high)
    if recipe.calibration_method == "output-error":
        read = [reading for value in members for reading in readings.get(value.tensor, ())]
        return choose_by_output(histogram, kind, read, low, high, centred=recipe.compensate)
    return choose_grid(histogram, kind, recipe.calibration_method, low, high)


def in_half(grid: ValueGrid) -> ValueGrid:
    """The grid with a scale that float16 holds, unless that would be below its smallest normal number."""
    with np.errstate(over="ignore"):  # infinite then, which is told apart below
        scale = float(np.float16(grid.scale))
    return replace(grid, scale=scale) if SMALLEST_HALF <= scale < math.inf else grid


def functions_of(model: ModelProto, placed: Sequence[Placed], recipe: Recipe) -> dict[str, Function]:
    """The functions that values are seen through alone, by tensor, where ranges are chosen by error."""
    if recipe.calibration_method not in ("mse", "output-error"):
        return {}
    alone = [members[0] for members in grouped(placed) if len(members) == 1]
    found = {v.tensor: function_behind(model, v.tensor) for v in alone if v.readers is None}
    return {name: as_function(behind) for name, behind in found.items() if behind is not None}


def as_function(model: ModelProto) -> Function:
    """A model of one vector to another as a function."""
    session = open_session(model, SessionOptions(threads=1))
    source, made = session.inputs[0].name, session.outputs[0].name
    return lambda values: session.run({source: values})[made]


def readings_of(
    model: ModelProto, opened: Opened, solved: Solved, recipe: Recipe
) -> dict[str, list[Reading]]:
    """How layers that compute in 8 bits read their inputs, by tensor."""
    chosen = [layer for layer in opened.plan.layers if layer.name in opened.plan.placement.layers]
    rows = watch_rows(model, chosen, opened.calibration, recipe)
    readings: dict[str, list[Reading]] = {}
    for layer in chosen:
        if layer.name in rows:
            s = solved.solutions[layer.name]
            weight = dequantize(s.codes, s.scale, s.zero_point, s.grid).astype(np.float32)
            readings.setdefault(layer.input, []).append(Reading(rows[layer.name], weight))
    return readings


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
