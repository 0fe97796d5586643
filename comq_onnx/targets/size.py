"""How large the written file will be, known before anything is solved: what codes hold changes no size."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from comq_onnx.graph.external import is_external, tensors_of
from comq_onnx.graph.half import to_half
from comq_onnx.graph.io import Model, load, to_proto
from comq_onnx.graph.outside import Nowhere
from comq_onnx.graph.share import share_equal_weights
from comq_onnx.graph.tensors import stored_bytes
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import ActivationKind, Layer, Quality, Solution, ValueGrid
from comq_onnx.targets import TARGETS
from comq_onnx.targets.halved import store_halved
from comq_onnx.targets.placement import NOWHERE, Placement, Stored


def file_bytes(
    prepared: onnx.ModelProto,
    layers: Sequence[Layer],
    grids: Mapping[str, Grid],
    recipe: Recipe,
    placement: Placement = NOWHERE,
    halved: Sequence[Layer] = (),
) -> int:
    """Bytes of the file: codes as they are packed, scales, biases, and all that stays as it is.

    `halved` are layers that are none of `layers` and whose weights are stored as float16.

    The model is rewritten in memory with made-up codes, so that what the target decides is decided by it. Up
    to the few bytes of how the model was made, the size is that of the file.
    """
    model, target = load(prepared), TARGETS[recipe.target]
    light = any(is_external(tensor) for tensor in prepared.graph.initializer)
    if light and target.stores_codes and not target.half(recipe):
        model.outside = Nowhere()
    rewritten_bytes(model, layers, grids, recipe, placement)
    store_halved(model, halved, target, recipe)
    share_equal_weights(model)
    proto = to_proto(model)
    if target.half(recipe):
        proto = to_half(proto, {}).proto
    return proto.ByteSize() + sum(stored_bytes(t) for t in tensors_of(proto.graph) if is_external(t))


def rewritten_bytes(
    model: Model,
    layers: Sequence[Layer],
    grids: Mapping[str, Grid],
    recipe: Recipe,
    placement: Placement = NOWHERE,
) -> dict[str, int]:
    """Write made-up codes into `model`, in place; the bytes of what makes each layer's weight."""
    target = TARGETS[recipe.target]
    solved = {layer.name: made_up(layer, grids[layer.name], recipe) for layer in layers}
    if not target.stores_codes:
        solved = {name: _told_apart(made, float(i)) for i, (name, made) in enumerate(solved.items(), 1)}
    grid = ValueGrid(1.0, 0, ActivationKind(signed=False, symmetric=False))
    stored = Stored(placement, {value.tensor: grid for value in placement.values})
    written = target.rewrite(model, layers, solved, recipe, stored)
    return {w.layer: w.bytes_after + w.node_bytes for w in written}


def _told_apart(solution: Solution, value: float) -> Solution:
    """`solution` with weights that all are `value`: floats that were equal would be stored once."""
    codes, scale = np.ones_like(solution.codes), np.full_like(solution.scale, value)
    return replace(solution, codes=codes, scale=scale)


def made_up(layer: Layer, grid: Grid, recipe: Recipe) -> Solution:
    """A solution of the shape that the layer's will have."""
    layout = layer.layout
    blocks = (layout.groups, grid.blocks(layout.rows), layout.cols)
    # Memory that is never written costs nothing.
    codes = np.zeros((layout.groups, layout.rows, layout.cols), grid.code_dtype)
    zero = None if grid.symmetric else np.zeros(blocks, grid.code_dtype)
    bias = None
    if recipe.compensate and layer.op != "Gather" and not layer.in_subgraph:
        bias = np.ones((layout.groups, layout.cols))
    return Solution(grid, codes, np.ones(blocks, np.float32), zero, bias, Quality(1.0, 0.0, 0.0))
