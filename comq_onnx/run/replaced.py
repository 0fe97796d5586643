"""What a solution puts in the place of a layer's weight and bias, in floating point."""

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from comq_onnx.graph.layout import from_rows, per_column_to_output
from comq_onnx.grid import dequantize
from comq_onnx.records import Layer, Solution
from comq_onnx.run.mapped import stub

LARGE = 1 << 20
"""Bytes of a weight that a session is given instead of a message that holds it"""
UNCOMPENSATED = "/uncompensated"


def replaced_weights(
    layers: Mapping[str, Layer], solutions: Mapping[str, Solution], device: str
) -> tuple[dict[str, TensorProto], dict[str, np.ndarray]]:
    """What the codes of quantized layers stand for, by the name of the weight.

    Values of large ones are apart: a session takes them as they are, without the copies of a message.
    """
    found, given = {}, {}
    for name, solution in solutions.items():
        layer = layers[name]
        values = float_weight(solution, layer)
        if values.nbytes < LARGE or layer.in_subgraph or device != "cpu":
            found[layer.weight] = numpy_helper.from_array(values, layer.weight)
        else:
            found[layer.weight], given[layer.weight] = stub(layer.weight, values), values
    return found, given


def quantized_nodes(
    nodes: Iterable[NodeProto],
    layers: Mapping[str, Layer],
    solutions: Mapping[str, Solution],
    replaced: dict[str, TensorProto],
) -> tuple[list[NodeProto], dict[str, TensorProto]]:
    """The nodes as the quantized network has them, and the constants that takes.

    Weights keep their names, so that only compensating biases and subgraphs need new nodes.
    """
    result: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    for node in nodes:
        solution = solutions.get(node.name)
        if solution is not None and solution.bias is not None:
            layer, bare, name = layers[node.name], NodeProto(), node.output[0]
            bare.CopyFrom(node)
            bare.output[0] = name + UNCOMPENSATED
            bias = broadcast_bias(solution.bias, layer)
            if solution.position_bias is not None:
                bias = (bias + solution.position_bias).astype(bias.dtype)
            added[name + "/bias"] = numpy_helper.from_array(bias, name + "/bias")
            result += [bare, helper.make_node("Add", [bare.output[0], name + "/bias"], [name])]
        elif any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            result.append(with_constants(node, replaced))
        else:
            result.append(node)
    return result, added


def float_weight(solution: Solution, layer: Layer) -> np.ndarray:
    """What the codes stand for, in the weight tensor's shape, in float32 or wider."""
    values = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)
    return from_rows(values, layer.layout).astype(np.float64 if layer.dtype == "float64" else np.float32)


def broadcast_bias(bias: np.ndarray, layer: Layer) -> np.ndarray:
    """``(groups, cols)`` as it is added to the node's output."""
    values = per_column_to_output(bias, layer.layout)
    if layer.layout.kind in ("conv", "conv_transpose"):
        values = values.reshape(-1, *(1,) * (len(layer.layout.shape) - 2))
    return values.astype(np.float64 if layer.dtype == "float64" else np.float32)


def with_constants(node: NodeProto, replaced: dict[str, TensorProto]) -> NodeProto:
    """A copy of the node whose subgraphs hold the replaced constants."""
    copy = NodeProto()
    copy.CopyFrom(node)
    _replace_inside(copy, replaced)
    return copy


def _replace_inside(node: NodeProto, replaced: dict[str, TensorProto]) -> None:
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for tensor in body.initializer:
                if tensor.name in replaced:
                    tensor.CopyFrom(replaced[tensor.name])
            for inner in body.node:
                _replace_inside(inner, replaced)
