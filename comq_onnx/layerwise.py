"""Layers solved on statistics that are there: one of them, or many side by side."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.graph.io import Model
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import BlockBias, InputStats, Layer, Problem, Solution
from comq_onnx.solve.layer import cost, solve_layer
from comq_onnx.targets import TARGETS

SMALLEST_IN_HALF = 2.0**-7
"""A weight whose largest value is below this has float32 scales: those of int4 codes would be below 2**-10,
and float16 ends at 2**-14."""


@dataclass(frozen=True)
class Solved:
    """The solution of every layer, by name, the time it took, and what the user must hear of."""

    solutions: Mapping[str, Solution]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    drift: Mapping[str, float] = field(default_factory=dict)
    """``E ||x - x'||^2 / E ||x||^2`` of the inputs of layers that were solved on the quantized network's."""
    passes: float = 1.0
    """Nodes executed, in forward passes of the whole model over the data."""
    spilled: int = 0
    """Bytes of activations written to disk."""
    blocks: tuple[BlockBias, ...] = ()
    """What is added behind residual Adds"""


def solve(
    model: Model, layer: Layer, stats: InputStats | None, grid: Grid, how: tuple[Recipe, Engine]
) -> Solution:
    """One layer's codes, scales and bias.

    An embedding meets one-hot inputs, for which rounding is best, at few bits with a searched scale.
    """
    recipe, engine = how
    weight = to_rows(weight_values(model, layer), layer.layout)
    if layer.op == "Gather":
        lookup = Problem(weight, None, grid, scale_dtype(layer, recipe, np.abs(weight).max()))
        solver = "rtn" if grid.bits == 8 else "rtn-searched"
        return solve_layer(lookup, solver, compensate=False, engine=engine)
    problem = Problem(weight, stats, grid, scale_dtype(layer, recipe, np.abs(weight).max()))
    return solve_layer(problem, recipe.solver, recipe.compensate, recipe.effort, engine)


def scale_dtype(layer: Layer, recipe: Recipe, largest: float) -> str:
    """Element type that the layer's scales have in the file; `largest` is that of its weights' magnitudes.

    float16 in a float16 graph, unless scales would come near its smallest normal number.
    """
    half = layer.dtype == "float32" and TARGETS[recipe.target].half(recipe)
    return "float16" if half and largest >= SMALLEST_IN_HALF else layer.dtype


def solve_layers(
    model: Model,
    layers: Sequence[Layer],
    stats: Mapping[str, InputStats | None],
    grids: Mapping[str, Grid],
    how: tuple[Recipe, Engine],
    on_layer: Callable[[str, Solution, float], None],
) -> None:
    """Solve layers on all threads; `on_layer` hears of each, in no particular order, with its seconds.

    A layer that is more than a thread's share has all threads; others go side by side, longest first.
    """
    recipe, engine = how

    def timed(work: tuple[Layer, Engine]) -> tuple[str, Solution, float]:
        layer, mine = work
        started = time.monotonic()
        solution = solve(model, layer, stats[layer.name], grids[layer.name], (recipe, mine))
        return layer.name, solution, time.monotonic() - started

    work = sorted(layers, key=lambda layer: -cost(layer.layout))
    share = sum(cost(layer.layout) for layer in work) / engine.threads
    large = [layer for layer in work if cost(layer.layout) > share]
    with single_threaded_blas():
        alone = map(timed, [(layer, engine) for layer in large])
        beside = engine.map(timed, [(layer, replace(engine, threads=1)) for layer in work[len(large) :]])
        for name, solution, spent in chain(alone, beside):
            on_layer(name, solution, spent)
