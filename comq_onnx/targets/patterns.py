"""What nodes and tensors are to a runtime with 8-bit kernels: told from a node and its neighbours alone."""

import math

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.edit import BIAS_INPUT, as_vector
from comq_onnx.graph.slots import attribute, is_standard
from comq_onnx.graph.tensors import Tensor, shape_of, values_of
from comq_onnx.records import Layer

MOVERS = frozenset(
    ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Resize")
    + ("Split", "Gather", "Identity", "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "Pad")
)
"""Operators whose outputs hold values of their first input (Concat: of all), so that one grid serves both."""
COMPUTERS = frozenset(("Add", "AveragePool", "GlobalAveragePool"))
"""Operators that runtimes compute in 8 bits, with a grid of its own for each tensor."""
OF_ONE_POSITION = ("Conv", "Relu", "Clip", "HardSwish", "PRelu", "Sigmoid", "HardSigmoid")
"""Operators between the convolutions of a squeeze-and-excite branch."""
MATRIX_ADDED = "onnxruntime does not fuse a Gemm that adds a matrix"
MAX_CLIP_INPUTS = 3
MOST_DEPTHWISE = 3
"""Channels that a group of a depthwise convolution makes, at most."""


def is_depthwise(layer: Layer) -> bool:
    """Whether a Conv has groups of so few channels that its products are as small as its sums."""
    return layer.layout.kind == "conv" and layer.layout.groups > 1 and layer.layout.cols <= MOST_DEPTHWISE


def limits_of(tensor: Tensor) -> tuple[float, float]:
    """What a Relu, Clip or Softmax keeps the values of a tensor between, seen through operators that move."""
    while tensor.inputs:
        node = tensor.inputs[0]
        if (limits := clip_limits(node)) is not None:
            return limits
        if is_standard(node, "Softmax", "Sigmoid", "HardSigmoid"):
            return 0.0, 1.0
        if node.domain or node.op not in MOVERS or node.op == "Concat" or not moves_plainly(node):
            break
        tensor = node.inputs[0]
    return float("-inf"), float("inf")


def clip_limits(node: gs.Node) -> tuple[float, float] | None:
    """The range of a Relu, or of a Clip at constants; None for any other operator."""
    if is_standard(node, "Relu"):
        return 0.0, float("inf")
    if not is_standard(node, "Clip"):
        return None
    ends = [float("-inf"), float("inf")]
    for place, tensor in enumerate(node.inputs[1:MAX_CLIP_INPUTS]):
        if tensor.is_empty():
            continue
        if not isinstance(tensor, gs.Constant) or math.prod(shape_of(tensor)) != 1:
            return None
        ends[place] = float(values_of(tensor).reshape(()))
    return ends[0], ends[1]


def cannot(layer: Layer) -> str:
    """Why no runtime computes a layer in 8 bits, as a clause."""
    if layer.op == "Gather":
        return "an embedding multiplies nothing"
    if layer.layout.kind == "matmul_left":
        return "the weight is the left operand"
    if layer.layout.kind == "matmul" and len(layer.layout.shape) != 2:
        return "the weight has a batch axis"
    if layer.layout.kind == "conv_transpose" and layer.layout.groups > 1:
        return "no axis of the weight holds one channel for each scale"
    return f"{layer.dtype} activations" if layer.dtype in ("float64", "bfloat16") else ""


def adds_matrix(node: gs.Node, columns: int) -> bool:
    """Whether a node is a Gemm that adds anything but a constant vector of its columns, or a scalar."""
    if node.op != "Gemm" or len(node.inputs) <= BIAS_INPUT or node.inputs[BIAS_INPUT].is_empty():
        return False
    return as_vector(node.inputs[BIAS_INPUT], columns) is None


def is_product(node: gs.Node) -> bool:
    """Whether a node multiplies two activations."""
    return is_standard(node, "MatMul") and all(isinstance(t, gs.Variable) for t in node.inputs)


def single_positions(graph: gs.Graph) -> set[int]:
    """Ids of tensors that hold one position of an image: global pools, and what is computed of them alone."""
    found: set[int] = set()
    for node in graph.nodes:
        if is_standard(node, "GlobalAveragePool", "GlobalMaxPool"):
            held = True
        elif is_standard(node, "ReduceMean"):
            held = _over_image(node)
        elif is_standard(node, "Mul"):  # a SiLU; what scales an image has one position on one side alone
            held = all(id(read) in found for read in node.inputs)
        else:
            held = is_standard(node, *OF_ONE_POSITION) and id(node.inputs[0]) in found
        if held:
            found.add(id(node.outputs[0]))
    return found


def _over_image(mean: gs.Node) -> bool:
    """Whether a ReduceMean leaves one position of an image, by axes that are written down."""
    axes = attribute(mean, "axes")
    if axes is None and len(mean.inputs) > 1 and isinstance(mean.inputs[1], gs.Constant):
        axes = values_of(mean.inputs[1]).tolist()
    return bool(axes) and attribute(mean, "keepdims", 1) == 1 and not {0, 1} & set(axes)


def is_row(tensor: Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and as_vector(tensor, int(np.prod(tensor.shape))) is not None


def carried_inputs(node: gs.Node) -> list[Tensor]:
    """Activations a carried operator computes with; empty where one of its operands is a constant."""
    operands = list(node.inputs) if node.op in ("Add", "Concat") else list(node.inputs[:1])
    return operands if all(isinstance(t, gs.Variable) for t in operands) else []


def moves_plainly(node: gs.Node) -> bool:
    """Whether the operator leaves values as they are (a Resize that interpolates and a Pad do not)."""
    if node.op == "Resize":
        return attribute(node, "mode", "nearest") == "nearest"
    return node.op != "Pad"
