"""Put the solutions of a weight-only run into the graph: pick a form for each layer, then edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comq_onnx.graph.edit import (
    add_position_bias,
    flatten_addend,
    fold_bias,
    insert_after,
    replace_weight,
)
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import names_in, node_of
from comq_onnx.recipe import WeightForm
from comq_onnx.records import Layer, Solution, TwinGrid, ValueGrid
from comq_onnx.targets.barrier import Readers, part_from_bias, part_from_float, part_gemm, raise_barrier
from comq_onnx.targets.blocks import fused_pays, is_power_of_two, is_right_side, stored_bits
from comq_onnx.targets.dynamic import Rounded, dynamic_product
from comq_onnx.targets.eight_bit import (
    eight_bit_weight,
    integer_bias,
    room_for_bias,
    store_activations,
)
from comq_onnx.targets.forms import (
    LinearPlan,
    cast_times_scale,
    dequantize_linear,
    plan_linear,
)
from comq_onnx.targets.lookup import byte_rows, packed_rows
from comq_onnx.targets.nbits import matmul_nbits, nbits_block
from comq_onnx.targets.patterns import MATRIX_ADDED, adds_matrix
from comq_onnx.targets.piece import Piece
from comq_onnx.targets.placement import Stored
from comq_onnx.targets.planes import holds_planes
from comq_onnx.targets.ranks import tensor_ranks
from comq_onnx.targets.target import CAST_SCALE, DEQUANTIZE, DYNAMIC, EIGHT_BIT, NBITS, PLANES, Written
from comq_onnx.targets.twin import part_products

PACKED_ROWS = "packed on disk and in memory: rows are unpacked as they are looked up"

MISREAD = "onnxruntime's fused product misreads 2-bit codes unless 4 divides the columns"


@dataclass(frozen=True)
class Form:
    """How a target wants weights stored."""

    weight_form: WeightForm
    packed_int2: bool
    """Whether 2-bit codes are stored in 2 bits"""
    float_bias: bool = False
    """Whether layers that compute in 8 bits keep a float bias"""
    apart: bool = False
    """Whether each reader of an activation stored in 8 bits has a QuantizeLinear of its own"""
    linear: bool = True
    """Whether the runtime fuses a DequantizeLinear into the product it feeds"""
    pays: bool = False
    """Whether only products that are faster so have a DequantizeLinear"""
    nbits: bool = False
    """Whether products are written as MatMulNBits where it holds them"""
    half: bool = False
    """Whether the graph is made float16 afterwards"""
    for_onnxruntime: bool = True
    """Whether what onnxruntime fuses counts"""


@dataclass(frozen=True)
class Draft:
    """A model on its way to the file, and what every edit of it has to know."""

    model: Model
    form: Form
    taken: set[str]
    """Names in use; grows with every edit"""
    ranks: Mapping[str, int]
    """Axes of tensors by name, before any edit; empty where no layer's form depends on them"""
    inputs: Mapping[str, ValueGrid | None]
    """How the inputs of layers that compute in 8 bits are stored, by layer; None where they are rounded on
    the fly"""
    rounded: Rounded
    """Activations that are rounded on the fly"""
    twins: Mapping[str, TwinGrid]
    """Activations that have two ranges, by tensor"""
    readers: Readers
    """Who reads activations that are stored as uint8"""

    def piece(self, layer: Layer) -> Piece:
        """What the weight of a layer is made of, empty yet."""
        return Piece(layer, self.taken, self.form.half, self.model.outside)


def rewrite_weights(
    model: Model,
    layers: Sequence[Layer],
    solutions: Mapping[str, Solution],
    form: Form,
    stored: Stored,
) -> list[Written]:
    """Write each layer's codes, scales and bias into ``model.graph``, in place, and what `stored` says."""
    ranks = tensor_ranks(model) if any(asks_rank(layer) for layer in layers) else {}
    names = stored.placement.layers
    inputs = {layer.name: stored.grids.get(layer.input) for layer in layers if layer.name in names}
    plain = [v for v in stored.placement.values if v.tensor not in stored.twins]
    readers = {v.tensor: v.readers for v in plain if not stored.grids[v.tensor].kind.signed}
    draft = Draft(model, form, names_in(model), ranks, inputs, {}, stored.twins, readers)
    written = [write_layer(draft, layer, solutions[layer.name]) for layer in layers]
    store_activations(model, stored, form.apart, draft.taken)
    part_products(model, stored, ranks, draft.taken)
    return written


def forms_of(
    model: Model, layers: Sequence[Layer], solutions: Mapping[str, Solution], form: Form
) -> list[tuple[str, str]]:
    """The form that `write_layer` would give each layer, its activations float, and why."""
    draft = Draft(model, form, names_in(model), {}, {}, {}, {}, {})
    return [_form_of(draft, layer, solutions[layer.name]) for layer in layers]


def _form_of(draft: Draft, layer: Layer, solution: Solution) -> tuple[str, str]:
    node, _ = node_of(draft.model, layer)
    if layer.op == "Gather" and node.attrs.get("axis", 0) == 0:
        return CAST_SCALE, PACKED_ROWS if solution.grid.bits <= 4 else ""
    if draft.form.nbits and holds_nbits(draft, layer, solution):
        return NBITS, ""
    plan, bits, note, choice = choose_form(draft, layer, solution)
    return form_name(plan, layer, solution, bits), "; ".join(filter(None, (note, choice)))


def write_layer(draft: Draft, layer: Layer, solution: Solution) -> Written:
    """Store one layer: DequantizeLinear where it is fused or was asked for, Cast*scale elsewhere."""
    node, _ = node_of(draft.model, layer)
    if layer.op == "Gather" and node.attrs.get("axis", 0) == 0:
        return write_gather(draft, layer, solution)
    if layer.name in draft.inputs:
        return write_eight_bit(draft, layer, solution)
    if draft.form.nbits and holds_nbits(draft, layer, solution):
        return write_nbits(draft, layer, solution)
    right = is_right_side(layer.layout)
    bias = fold_bias(draft.model, layer, solution.bias, draft.taken)
    plan, bits, note, choice = choose_form(draft, layer, solution)
    piece = draft.piece(layer)
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
    form = form_name(plan, layer, solution, bits)
    size = piece.node_bytes
    return Written(layer.name, form, piece.bytes, bias, note, more, choice=choice, node_bytes=size)


def form_name(plan: LinearPlan | None, layer: Layer, solution: Solution, bits: int) -> str:
    """What users know the form by that `choose_form` answers."""
    if plan:
        return DEQUANTIZE
    return PLANES if holds_planes(layer, solution.grid, bits) else CAST_SCALE


def choose_form(draft: Draft, layer: Layer, solution: Solution) -> tuple[LinearPlan | None, int, str, str]:
    """The DequantizeLinear that holds a layer, None for Cast*scale; bits; what fell back; why it is so."""
    form, right = draft.form, is_right_side(layer.layout)
    bits = stored_bits(layer, solution.grid.bits, form.packed_int2)
    note, choice = unfused(draft, layer) if right else "", ""
    wanted = form.weight_form == "dq" or (right and not note and form.linear)
    plan = plan_linear(layer, solution, bits) if wanted else None
    if wanted and not plan:
        note = "DequantizeLinear does not hold its scales"
    if plan and form.weight_form != "dq" and plan.block and not is_power_of_two(plan.block):
        plan, choice = None, f"onnxruntime fuses no blocks of {plan.block}"
    if plan and right and form.pays and not fused_pays(layer.layout, bits, plan.block):
        plan = None
        choice = f"a fused product of {layer.layout.rows}x{layer.layout.cols} is slower than float"
    typed = form.packed_int2 and solution.grid.bits == 2
    if form.weight_form != "dq" and not typed and holds_planes(layer, solution.grid, bits):
        return None, bits, "", ""
    if form.packed_int2 and bits > solution.grid.bits == 2:
        if form.weight_form == "dq" and plan:
            return plan, bits, f"stored in int4: {MISREAD}", choice
        return None, 2, note, choice or (f"not fused, in 2 bits: {MISREAD}" if plan else "")
    return plan, bits, note, choice


def write_eight_bit(draft: Draft, layer: Layer, solution: Solution) -> Written:
    """Store a layer that multiplies 8-bit activations: int8 weight, and a bias at the scale of the sums."""
    packed = draft.form.packed_int2 and solution.grid.bits == 2
    bits = 2 if packed else 4 if solution.grid.bits <= 4 else 8
    bias = fold_bias(draft.model, layer, solution.bias, draft.taken)
    more = add_position_bias(draft.model, layer, solution.position_bias, draft.taken)
    grid = draft.inputs[layer.name]
    if grid is None:
        piece = draft.piece(layer)
        dynamic_product(draft.model, piece, solution, bits, draft.rounded)
        return Written(layer.name, DYNAMIC, piece.bytes, bias, "", more)
    if twin := draft.twins.get(layer.input):
        # Its bias stays float, behind the sum of the two products.
        note = f"its input has two ranges: {twin.gain:.1f} times less squared error"
    else:
        solution, note = fit_bias(draft, layer, solution, grid)
    piece = draft.piece(layer)
    weight = eight_bit_weight(piece, solution, bits)
    replace_weight(draft.model, layer, piece.nodes, weight)
    return Written(layer.name, EIGHT_BIT, piece.bytes, bias, note, more, solution)


def fit_bias(draft: Draft, layer: Layer, solution: Solution, grid: ValueGrid) -> tuple[Solution, str]:
    """Bring the bias of an 8-bit layer to the form the kernels want, and what to say of it."""
    solution = room_for_bias(draft.model, layer, solution, grid)
    if draft.form.float_bias:
        part_from_bias(draft.model, layer, draft.ranks, draft.taken)
        if draft.form.apart:
            part_gemm(draft.model, layer, draft.taken)
        _part_from_float(draft, layer)
        return solution, ""
    _part_from_float(draft, layer)
    return solution, integer_bias(draft.model, layer, solution, grid, draft.taken)


def _part_from_float(draft: Draft, layer: Layer) -> None:
    if draft.form.for_onnxruntime:
        part_from_float(draft.model, layer, draft.ranks, draft.readers, draft.taken)


def holds_nbits(draft: Draft, layer: Layer, solution: Solution) -> bool:
    """Whether a MatMulNBits can take the place of a product."""
    bits = stored_bits(layer, solution.grid.bits, draft.form.packed_int2)
    right = is_right_side(layer.layout) and layer.dtype == "float32" and not unfused(draft, layer)
    return right and nbits_block(layer.layout.rows, solution.scale.shape[1], bits) > 0


def write_nbits(draft: Draft, layer: Layer, solution: Solution) -> Written:
    """Store a product as onnxruntime's own low-bit operator."""
    bits = stored_bits(layer, solution.grid.bits, draft.form.packed_int2)
    bias = fold_bias(draft.model, layer, solution.bias, draft.taken)
    flatten_addend(draft.model, layer, draft.ranks.get(layer.input, 0), draft.taken)
    more = add_position_bias(draft.model, layer, solution.position_bias, draft.taken)
    piece = draft.piece(layer)
    matmul_nbits(draft.model, piece, solution, bits)
    return Written(layer.name, NBITS, piece.bytes, bias, "", more)


def write_gather(draft: Draft, layer: Layer, solution: Solution) -> Written:
    """Store an embedding as rows of codes that are dequantized after the lookup."""
    packed = solution.grid.bits <= 4
    if not packed and (solution.grid.bits != 8 or solution.scale.shape[1] != 1):
        raise ValueError(f"{layer.name}: an embedding of wide codes is written as int8 with a scale per row")
    if solution.bias is not None and np.any(solution.bias):
        raise ValueError(f"{layer.name}: an embedding has no bias")
    node, graph = node_of(draft.model, layer)
    output, piece = node.outputs[0], draft.piece(layer)
    if packed:
        packed_rows(piece, solution, node)
    else:
        byte_rows(piece, solution, node)
    piece.nodes[-1].outputs[0] = output
    insert_after(graph, node, piece.nodes)
    said = PACKED_ROWS if packed else ""
    return Written(layer.name, CAST_SCALE, piece.bytes, choice=said, node_bytes=piece.node_bytes)


def unfused(draft: Draft, layer: Layer) -> str:
    """Why onnxruntime would leave the DequantizeLinear of a right-side weight unfused; empty if it fuses it.

    Unfused, it is recomputed on every call. A Gemm is fused only where C is a vector.
    """
    node, _ = node_of(draft.model, layer)
    return MATRIX_ADDED if adds_matrix(node, layer.layout.cols) else ""


def asks_rank(layer: Layer) -> bool:
    """Whether what must surround the layer depends on the rank of its input."""
    return layer.op == "MatMul" and is_right_side(layer.layout)
