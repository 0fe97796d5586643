"""Put the solutions of a weight-only run into the graph: pick a form for each layer, then edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comq_onnx.graph.edit import (
    BIAS_INPUT,
    add_position_bias,
    as_vector,
    flatten_addend,
    fold_bias,
    insert_after,
    replace_weight,
)
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import names_in, node_of
from comq_onnx.recipe import WeightForm
from comq_onnx.records import Layer, Solution
from comq_onnx.targets.barrier import raise_barrier
from comq_onnx.targets.blocks import is_right_side, stored_bits
from comq_onnx.targets.forms import (
    Piece,
    cast_times_scale,
    dequantize_linear,
    gather_rows,
    plan_linear,
)
from comq_onnx.targets.ranks import tensor_ranks
from comq_onnx.targets.target import CAST_SCALE, DEQUANTIZE, Written


@dataclass(frozen=True)
class Draft:
    """A model on its way to the file, and what every edit of it has to know."""

    model: Model
    weight_form: WeightForm
    packed_int2: bool
    taken: set[str]
    """Names in use; grows with every edit"""
    ranks: Mapping[str, int]
    """Axes of tensors by name, before any edit; empty where no layer's form depends on them"""
    half: bool = False
    """Whether the graph is made float16 afterwards"""


def rewrite_weights(
    model: Model,
    layers: Sequence[Layer],
    solutions: Mapping[str, Solution],
    weight_form: WeightForm,
    packed_int2: bool,
    half: bool = False,
) -> list[Written]:
    """Write each layer's codes, scales and bias into ``model.graph``, in place."""
    ranks = tensor_ranks(model) if any(asks_rank(layer) for layer in layers) else {}
    draft = Draft(model, weight_form, packed_int2, names_in(model), ranks, half)
    return [write_layer(draft, layer, solutions[layer.name]) for layer in layers]


def write_layer(draft: Draft, layer: Layer, solution: Solution) -> Written:
    """Store one layer: DequantizeLinear where it is fused or was asked for, Cast*scale elsewhere."""
    node, _ = node_of(draft.model, layer)
    if layer.op == "Gather" and node.attrs.get("axis", 0) == 0:
        return write_gather(draft, layer, solution)
    bits = stored_bits(layer, solution.grid.bits, draft.packed_int2)
    right = is_right_side(layer.layout)
    bias = fold_bias(draft.model, layer, solution.bias, draft.taken)
    note = unfused(draft, layer) if right else ""
    wanted = draft.weight_form == "dq" or (right and not note)
    plan = plan_linear(layer, solution, bits) if wanted else None
    if wanted and not plan:
        note = "DequantizeLinear does not hold its scales"
    if draft.packed_int2 and bits > solution.grid.bits == 2:
        note = "stored in int4: onnxruntime misreads 2-bit codes unless 4 divides the columns"
    piece = Piece(layer, draft.taken, draft.half)
    if plan:
        weight = dequantize_linear(piece, solution, bits, plan)
    else:
        weight = cast_times_scale(piece, solution, bits)
    if plan and right:
        flatten_addend(draft.model, layer, draft.ranks.get(layer.input, 0), draft.taken)
    more = add_position_bias(draft.model, layer, solution.position_bias, draft.taken)
    if plan and right:
        raise_barrier(draft.model, layer, draft.ranks, draft.taken)
    replace_weight(draft.model, layer, piece.nodes, weight)
    return Written(layer.name, DEQUANTIZE if plan else CAST_SCALE, piece.bytes, bias, note, more)


def write_gather(draft: Draft, layer: Layer, solution: Solution) -> Written:
    """Store an embedding as 8-bit rows that are dequantized after the lookup."""
    if solution.grid.bits != 8 or solution.scale.shape[1] != 1:
        raise ValueError(f"{layer.name}: an embedding is written as int8 with a scale per row")
    if solution.bias is not None and np.any(solution.bias):
        raise ValueError(f"{layer.name}: an embedding has no bias")
    node, graph = node_of(draft.model, layer)
    output, piece = node.outputs[0], Piece(layer, draft.taken, draft.half)
    gather_rows(piece, solution, node)
    piece.nodes[-1].outputs[0] = output
    insert_after(graph, node, piece.nodes)
    return Written(layer.name, CAST_SCALE, piece.bytes)


def unfused(draft: Draft, layer: Layer) -> str:
    """Why onnxruntime would leave the DequantizeLinear of a right-side weight unfused; empty if it fuses it.

    Unfused, it is recomputed on every call. A Gemm is fused only where C is a vector.
    """
    node, _ = node_of(draft.model, layer)
    if layer.op != "Gemm":
        return ""
    addend = node.inputs[BIAS_INPUT] if len(node.inputs) > BIAS_INPUT else None
    vector = addend is None or addend.is_empty() or as_vector(addend, layer.layout.cols) is not None
    return "" if vector else "onnxruntime does not fuse a Gemm that adds a matrix"


def asks_rank(layer: Layer) -> bool:
    """Whether what must surround the layer depends on the rank of its input."""
    return layer.op == "MatMul" and is_right_side(layer.layout)
