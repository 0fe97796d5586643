"""Residual Adds: where the branch of a block meets what went past it."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from comq_onnx.graph.cut import touched_nodes
from comq_onnx.records import Layer

ELEMENTWISE = frozenset(
    ("Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish")
    + ("Tanh", "Gelu", "Erf", "Elu", "Dropout", "Identity", "Cast", "Pow", "Sqrt", "Softplus", "Mish")
    + ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization")
)
"""Operators that leave channels on the axis where they are."""
CHANNEL_AXES = {"conv": 1, "conv_transpose": 1, "matmul": -1, "matmul_left": -2}


@dataclass(frozen=True)
class Block:
    """An Add that both the float and the quantized network compute, of two tensors that differ there."""

    node: str
    output: str
    axis: int
    """Of channels: 1 behind a convolution, -1 behind a product with a matrix"""
    dtype: str
    """Of the output in the file"""


def residual_adds(graph: GraphProto, layers: Sequence[Layer]) -> tuple[list[Block], list[str]]:
    """The Adds of the main graph that both inputs of depend on quantized layers, in order of execution.

    Besides them, the names of those whose channel axis cannot be told: no layer lies behind them without an
    operator in between that may move axes.
    """
    nodes = list(graph.node)
    touched = touched_nodes(nodes, layers)
    maker = {name: node for i, node in enumerate(nodes) if i in touched for name in node.output if name}
    by_name = {layer.name: layer for layer in layers}
    blocks, unknown = [], []
    for i, node in enumerate(nodes):
        if node.op_type != "Add" or i not in touched or not all(name in maker for name in node.input):
            continue
        layer = _layer_behind(node, maker, by_name)
        if layer is None:
            unknown.append(node.name)
        else:
            blocks.append(Block(node.name, node.output[0], CHANNEL_AXES[layer.layout.kind], layer.dtype))
    return blocks, unknown


def _layer_behind(node: NodeProto, maker: dict[str, NodeProto], layers: dict[str, Layer]) -> Layer | None:
    """The nearest layer that the node's inputs come from, channel by channel."""
    queue, seen = list(node.input), set()
    while queue:
        name = queue.pop(0)
        source = maker.get(name)
        if source is None or name in seen:
            continue
        seen.add(name)
        layer = layers.get(source.name)
        if layer is not None and layer.layout.kind in CHANNEL_AXES:
            return layer
        if source.op_type in ELEMENTWISE:
            queue.extend(source.input)
    return None
