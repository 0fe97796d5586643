"""Keep onnxruntime from fusing a product with what follows it before it has seen the quantized weight.

Where a product with a DequantizeLinear is followed by a Relu or Clip and then by another such product,
onnxruntime leaves it unfused, and the weight is dequantized on every call. On matrices (rank 2) it also turns
MatMul + Add into a Gemm first, and fuses that with the activation behind it or leaves it if the addend is a
matrix. All of this was seen in onnxruntime 1.31. A Reshape to the shape a tensor already has costs nothing,
and no optimiser removes it.
"""

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.edit import BIAS_INPUT, as_vector, following_add, insert_after
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name, node_of
from comq_onnx.graph.slots import is_standard, slots_of
from comq_onnx.graph.tensors import Tensor
from comq_onnx.records import Layer

ACTIVATIONS = frozenset(
    ("Clip", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu")
    + ("Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu")
)
"""What onnxruntime fuses into a Gemm, and Clip."""
MATRIX = 2
Readers = Mapping[str, tuple[str, ...] | None]
"""Nodes that read the uint8 form of a tensor, by its name; None where all do"""


def raise_barrier(model: Model, layer: Layer, ranks: Mapping[str, int], taken: set[str]) -> None:
    """Put a Reshape behind the layer's product where onnxruntime would otherwise fuse it away.

    `ranks` holds the number of axes of tensors, where known; nothing is done where that of the input is not.
    """
    node, graph = node_of(model, layer)
    rank = MATRIX if layer.op == "Gemm" else ranks.get(layer.input, 0)
    if rank < MATRIX:
        return
    last, add = node, following_add(node, graph) if layer.op == "MatMul" else None
    if add:
        addend = next(tensor for tensor in add.inputs if tensor is not node.outputs[0])
        if rank == MATRIX and as_vector(addend, layer.layout.cols) is None:
            insert_reshape(graph, node, rank, taken)
            return
        last = add
    output = last.outputs[0]
    if any(tensor is output for tensor in graph.outputs) or len(output.outputs) != 1:
        return
    if output.outputs[0].op in ACTIVATIONS and (rank == MATRIX or not add):
        insert_reshape(graph, last, rank, taken)


def part_from_bias(model: Model, layer: Layer, ranks: Mapping[str, int], taken: set[str]) -> None:
    """Put a Reshape between a MatMul with 8-bit inputs and the Add of its float bias.

    onnxruntime would make a Gemm of the two, which it leaves in float unless its output is stored in 8 bits,
    and from opset 21 on it fails to load that where the codes are int8.
    """
    node, graph = node_of(model, layer)
    rank = ranks.get(layer.input, 0)
    if layer.op == "MatMul" and rank >= MATRIX and following_add(node, graph):
        insert_reshape(graph, node, rank, taken)


def part_gemm(model: Model, layer: Layer, taken: set[str]) -> None:
    """Turn a Gemm that adds a bias into a MatMul and an Add, with a Reshape between.

    onnxruntime leaves a Gemm with 8-bit inputs and a float bias in float, unless its output is stored in 8
    bits too, and dequantizes the weight on every call.
    """
    node, graph = node_of(model, layer)
    bias = node.inputs[BIAS_INPUT] if layer.op == "Gemm" and len(node.inputs) > BIAS_INPUT else None
    if bias is None or bias.is_empty():
        return
    output, operands = node.outputs[0], list(node.inputs[:BIAS_INPUT])
    bare = gs.Variable(free_name(f"{output.name}_without_bias", taken), output.dtype, output.shape)
    node.op = "MatMul"
    node.attrs.clear()
    node.inputs.clear()
    node.inputs.extend(operands)
    node.outputs[0] = bare
    name = free_name(f"{node.name}_bias", taken)
    insert_after(graph, node, [gs.Node("Add", name, inputs=[bare, bias], outputs=[output])])
    insert_reshape(graph, node, MATRIX, taken)


def part_from_float(
    model: Model, layer: Layer, ranks: Mapping[str, int], readers: Readers, taken: set[str]
) -> None:
    """Put a Reshape between a product with 8-bit inputs and what onnxruntime fuses it with in float.

    That is a Relu or Clip that stays in float; where all that reads it reads it as uint8 it is part of the
    8-bit kernel, and where nothing does, the product is fused as it is. On matrices it is also the Add of
    another activation. Seen in onnxruntime 1.31.
    """
    node, graph = node_of(model, layer)
    rank = MATRIX if layer.op == "Gemm" else ranks.get(layer.input, 0)
    if layer.op not in ("MatMul", "Gemm") or rank < MATRIX:
        return
    add = following_add(node, graph) if layer.op == "MatMul" else None
    if add and rank != MATRIX:
        return
    if add and all(isinstance(tensor, gs.Variable) for tensor in add.inputs):
        insert_reshape(graph, node, rank, taken)
        return
    last = add or node
    end = last.outputs[0]
    while clip := _only_clip(graph, end):
        end = clip.outputs[0]
    if end is not last.outputs[0] and not _is_taken_in(graph, end, readers):
        insert_reshape(graph, last, rank, taken)


def _only_clip(graph: gs.Graph, tensor: Tensor) -> gs.Node | None:
    """The Relu or Clip that alone reads `tensor`."""
    alone = len(tensor.outputs) == 1 and not any(output is tensor for output in graph.outputs)
    return tensor.outputs[0] if alone and is_standard(tensor.outputs[0], "Relu", "Clip") else None


def _is_taken_in(graph: gs.Graph, tensor: Tensor, readers: Readers) -> bool:
    """Whether what makes `tensor` is part of an 8-bit kernel, or all there is behind it."""
    found, stored = {node.name for node, _ in slots_of(tensor)}, readers.get(tensor.name, ())
    if stored is None or not found:
        return True
    return found <= set(stored) and not any(output is tensor for output in graph.outputs)


def insert_reshape(graph: gs.Graph, node: gs.Node, rank: int, taken: set[str]) -> None:
    """Let what reads the output of `node` read it through a Reshape whose zeros keep every dimension."""
    output, name = node.outputs[0], free_name(f"{node.name}_fusion_barrier", taken)
    inner = gs.Variable(free_name(f"{output.name}_before_barrier", taken), output.dtype, output.shape)
    shape = gs.Constant(free_name(f"{name}_shape", taken), np.zeros(rank, np.int64))
    node.outputs[0] = inner
    insert_after(graph, node, [gs.Node("Reshape", name, inputs=[inner, shape], outputs=[output])])
