"""Activations rounded to 8 bits on the fly: ``DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul``.

onnxruntime fuses the four into one kernel, which needs no ranges and so no calibration for them. The float
bias is added behind.
"""

from collections.abc import MutableMapping

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from comq_onnx.graph.edit import BIAS_INPUT, insert_after, insert_before
from comq_onnx.graph.io import Model
from comq_onnx.graph.layout import from_rows
from comq_onnx.graph.locate import free_name, node_of
from comq_onnx.graph.tensors import Tensor
from comq_onnx.records import Solution
from comq_onnx.targets.piece import FLOAT_TYPES, Piece

Rounded = MutableMapping[str, tuple[gs.Variable, gs.Variable, gs.Variable]]
"""By name of an activation: its codes, scale and zero point, for all layers that read it"""


def dynamic_product(model: Model, piece: Piece, solution: Solution, bits: int, rounded: Rounded) -> None:
    """Turn the layer's MatMul or Gemm into a MatMulInteger of its rounded input and the codes of `solution`.

    `rounded` is added to. ValueError where the solution has blocks or zero points.
    """
    layer, (node, graph) = piece.layer, node_of(model, piece.layer)
    if solution.scale.shape[1] != 1 or solution.zero_point is not None:
        raise ValueError(f"{layer.name}: 8-bit kernels take one scale per channel and no zero point")
    source: Tensor = node.inputs[0]
    output = node.outputs[0]
    if source.name not in rounded:
        rounded[source.name] = _round(graph, source, piece.taken)
    codes, scale, zero_point = rounded[source.name]
    weight: gs.Tensor = piece.integers("quantized", from_rows(solution.codes, layer.layout), bits)
    if bits < 8:
        weight = piece.node("Cast", [weight], to=TensorProto.INT8)
    weight_zero = piece.integers("zero_point", np.asarray(0, np.int8), 8)
    both = piece.node("Mul", [scale, piece.floats("scale", solution.scale[0, 0])])
    insert_before(graph, node, piece.nodes)
    bias = node.inputs[BIAS_INPUT] if layer.op == "Gemm" and len(node.inputs) > BIAS_INPUT else None
    behind = Piece(layer, piece.taken)
    sums = gs.Variable(free_name(f"{output.name}_sums", piece.taken))
    node.op = "MatMulInteger"
    node.attrs.clear()
    node.inputs.clear()
    node.inputs.extend([codes, weight, zero_point, weight_zero])
    node.outputs[0] = sums
    result = behind.node("Mul", [behind.node("Cast", [sums], to=FLOAT_TYPES[layer.dtype]), both])
    if bias is not None and not bias.is_empty():
        result = behind.node("Add", [result, bias])
    behind.nodes[-1].outputs[0] = output
    insert_after(graph, node, behind.nodes)


def _round(graph: gs.Graph, source: Tensor, taken: set[str]) -> tuple[gs.Variable, gs.Variable, gs.Variable]:
    name = free_name(f"{source.name}_DynamicQuantizeLinear", taken)
    codes, scale, zero = (
        gs.Variable(free_name(f"{source.name}_{part}", taken))
        for part in ("quantized", "scale", "zero_point")
    )
    node = gs.Node("DynamicQuantizeLinear", name, inputs=[source], outputs=[codes, scale, zero])
    maker = source.inputs[0] if source.inputs else None
    if maker is None:
        graph.nodes = [node, *graph.nodes]
    else:
        insert_after(graph, maker, [node])
    return codes, scale, zero
