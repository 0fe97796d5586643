"""Edits of a graph in memory: give a node another weight, add a bias to its output. Names stay."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.layout import per_column_to_output
from comq_onnx.graph.locate import free_name, names_in, node_of
from comq_onnx.graph.tensors import bytes_of, float_tensor, shape_of, values_of
from comq_onnx.records import BlockBias, Layer, Layout

BIAS_INPUT = 2
"""Conv, ConvTranspose and Gemm all take their bias here."""


def weight_index(layout: Layout) -> int:
    """Which input of the node is the weight."""
    return 0 if layout.kind in ("matmul_left", "gather") else 1


def replace_weight(model: Model, layer: Layer, nodes: Sequence[gs.Node], weight: gs.Tensor) -> None:
    """Put `nodes` before the layer's node and make it read `weight`; the float weight goes if unread."""
    node, graph = node_of(model, layer)
    _insert(graph, _position(graph, node), nodes)
    node.inputs[weight_index(layer.layout)] = weight


def insert_before(graph: gs.Graph, node: gs.Node, nodes: Sequence[gs.Node]) -> None:
    """Put `nodes` right before `node`; order in the list is the order of the file."""
    _insert(graph, _position(graph, node), nodes)


def insert_after(graph: gs.Graph, node: gs.Node, nodes: Sequence[gs.Node]) -> None:
    """Put `nodes` right behind `node`; order in the list is the order of the file."""
    _insert(graph, _position(graph, node) + 1, nodes)


def fold_bias(model: Model, layer: Layer, bias: np.ndarray | None, taken: set[str] | None = None) -> str:
    """Add `bias` ``(groups, cols)`` to the layer's output; the answer says where it went.

    It goes into the bias of a Conv, ConvTranspose or Gemm (created if absent), or into the constant of the
    one Add behind a MatMul; only where there is neither, into a new Add behind the node. A constant that
    others read is copied first. The sum is taken in float64, then rounded to the layer's dtype. Nothing
    changes and the answer is empty when `bias` is None or all zero. `taken` may hold ``names_in(model)``.
    """
    if bias is None or not np.any(bias):
        return ""
    if layer.op == "Gather":
        raise ValueError(f"{layer.name}: an embedding has no bias")
    taken = names_in(model) if taken is None else taken
    node, graph = node_of(model, layer)
    if layer.op in ("Conv", "ConvTranspose", "Gemm"):
        return _into_input(node, graph, layer, bias.reshape(-1), taken)
    addend = per_column_to_output(bias, layer.layout)
    add = following_add(node, graph)
    for index, tensor in enumerate(add.inputs if add else ()):
        total = _small_sum(tensor, addend, layer.layout)
        if add and total is not None:
            _put_constant(add, graph, index, float_tensor(tensor.name, total, layer.dtype), taken)
            return f"Add {add.name}"
    return _new_add(node, graph, layer, addend, taken)


def add_position_bias(model: Model, layer: Layer, bias: np.ndarray | None, taken: set[str]) -> int:
    """Add `bias`, in the shape of the layer's output without its batch axis, in an Add of its own.

    It goes behind the Add of the layer's bias, which runtimes fuse into the product. The answer is the bytes
    it takes; nothing changes and it is 0 where `bias` is None or all zero.
    """
    if bias is None or not np.any(bias):
        return 0
    node, graph = node_of(model, layer)
    add = following_add(node, graph) if layer.op == "MatMul" else None
    if add and any(as_vector(tensor, layer.layout.cols) is not None for tensor in add.inputs):
        node = add
    constant = append_add(graph, node, f"{layer.name}_position_bias", (bias[None], layer.dtype), taken)
    return bytes_of(constant)


def add_block_bias(model: Model, bias: BlockBias, taken: set[str]) -> None:
    """Add the bias of a block behind its residual Add, in the main graph."""
    node = next(node for node in model.graph.nodes if node.name == bias.node)
    append_add(model.graph, node, f"{bias.node}_block_bias", (bias.values, bias.dtype), taken)


def append_add(
    graph: gs.Graph, node: gs.Node, name: str, addend: tuple[np.ndarray, str], taken: set[str]
) -> gs.Constant:
    """A new Add of a constant behind `node` that makes the tensor `node` used to make; the constant.

    `addend` is values and their element type in the file.
    """
    output, name = node.outputs[0], free_name(name, taken)
    constant = float_tensor(free_name(f"{name}_value", taken), *addend)
    bare = gs.Variable(free_name(f"{output.name}_without_{name}", taken), output.dtype, output.shape)
    node.outputs[0] = bare
    insert_after(graph, node, [gs.Node("Add", name, inputs=[bare, constant], outputs=[output])])
    return constant


def following_add(node: gs.Node, graph: gs.Graph) -> gs.Node | None:
    """The Add that alone reads the node's output, if there is one and the output is not a graph output."""
    output = node.outputs[0]
    if len(output.outputs) != 1 or any(t is output for t in graph.outputs):
        return None
    reader = output.outputs[0]
    return reader if reader.op == "Add" and any(n is reader for n in graph.nodes) else None


def as_vector(tensor: gs.Tensor, size: int) -> np.ndarray | None:
    """The values of a constant scalar or row vector as ``[size]``; None for any other tensor."""
    if not isinstance(tensor, gs.Constant):
        return None
    shape = shape_of(tensor)
    if np.prod(shape, dtype=int) == 1:
        return np.broadcast_to(values_of(tensor).reshape(()), size)
    is_row = shape[-1:] == (size,) and np.prod(shape, dtype=int) == size
    return values_of(tensor).reshape(size) if is_row else None


def flatten_addend(model: Model, layer: Layer, rank: int, taken: set[str]) -> None:
    """Bring what is added to a ``[K, N]`` MatMul or Gemm from ``[1, N]`` or a scalar to ``[N]``.

    onnxruntime leaves a weight's DequantizeLinear unfused where a Gemm adds anything but a vector. `rank` is
    that of the node's output, 0 if unknown: a constant of more axes than a MatMul's output stays as it is.
    """
    node, graph = node_of(model, layer)
    adder = node if layer.op == "Gemm" else following_add(node, graph)
    for index, tensor in enumerate(adder.inputs if adder else ()):
        vector = as_vector(tensor, layer.layout.cols)
        if adder is None or vector is None or (layer.op == "Gemm" and index != BIAS_INPUT):
            continue
        shape = shape_of(cast(gs.Constant, tensor))
        if shape != vector.shape and (layer.op == "Gemm" or len(shape) <= rank):
            _put_constant(adder, graph, index, float_tensor(tensor.name, vector, layer.dtype), taken)


def _into_input(node: gs.Node, graph: gs.Graph, layer: Layer, bias: np.ndarray, taken: set[str]) -> str:
    """Add `bias` ``[cols of all groups]`` to the third input of a Conv, ConvTranspose or Gemm."""
    held = node.inputs[BIAS_INPUT] if len(node.inputs) > BIAS_INPUT else gs.Variable.empty()
    if held.is_empty():
        tensor = float_tensor(free_name(f"{layer.weight}_bias", taken), bias, layer.dtype)
        if len(node.inputs) > BIAS_INPUT:
            node.inputs[BIAS_INPUT] = tensor
        else:
            node.inputs.append(tensor)
        return f"new bias of {node.name}"
    vector = as_vector(held, bias.size) if node.attrs.get("beta", 1.0) == 1.0 else None
    if vector is None:
        spatial = (1,) * (len(layer.layout.shape) - 2)
        return _new_add(node, graph, layer, bias.reshape(-1, *spatial), taken)
    total = float_tensor(held.name, vector.astype(np.float64) + bias, layer.dtype)
    _put_constant(node, graph, BIAS_INPUT, total, taken)
    return f"bias of {node.name}"


def _small_sum(tensor: gs.Tensor, addend: np.ndarray, layout: Layout) -> np.ndarray | None:
    """A constant plus `addend` in float64; None where the sum would be larger than either, or a matrix.

    A matrix added to a ``[K, N]`` MatMul would keep onnxruntime from fusing the weight.
    """
    if not isinstance(tensor, gs.Constant):
        return None
    if layout.kind == "matmul" and len(layout.shape) == 2 and as_vector(tensor, addend.size) is None:
        return None
    try:
        total = values_of(tensor).astype(np.float64) + addend
    except ValueError:  # shapes that no runtime would add
        return None
    return total if total.size <= max(np.prod(shape_of(tensor)), addend.size) else None


def _new_add(node: gs.Node, graph: gs.Graph, layer: Layer, addend: np.ndarray, taken: set[str]) -> str:
    """A new Add behind `node` that produces the tensor the node used to produce."""
    output = node.outputs[0]
    name = free_name(f"{node.name}_bias_compensation", taken)
    constant = float_tensor(free_name(f"{name}_value", taken), addend, layer.dtype)
    bare = gs.Variable(free_name(f"{output.name}_uncompensated", taken), output.dtype, output.shape)
    node.outputs[0] = bare
    insert_after(graph, node, [gs.Node("Add", name, inputs=[bare, constant], outputs=[output])])
    return f"new Add {name}"


def _put_constant(node: gs.Node, graph: gs.Graph, index: int, new: gs.Constant, taken: set[str]) -> None:
    """Make `node` read `new` at `index`; it has the old one's name unless something else reads that too."""
    old = node.inputs[index]
    if len(old.outputs) > 1 or any(t is old for t in graph.outputs):
        new.name = free_name(f"{old.name}_{node.name}", taken)
    node.inputs[index] = new


def _insert(graph: gs.Graph, place: int, nodes: Sequence[gs.Node]) -> None:
    cast("list[gs.Node]", graph.nodes)[place:place] = nodes


def _position(graph: gs.Graph, node: gs.Node) -> int:
    """Where `node` stands in the list; by identity, since GraphSurgeon compares nodes by content."""
    return next(i for i, n in enumerate(graph.nodes) if n is node)
