"""What stands in a quantized network for its float tensors: weights, biases, constants of subgraphs."""

import numpy as np
from onnx import NodeProto, TensorProto

from comq_onnx.graph.layout import from_rows, per_column_to_output
from comq_onnx.grid import dequantize
from comq_onnx.records import Layer, Solution


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
