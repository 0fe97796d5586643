"""How much of a file's weights is quantized, whoever wrote it."""

import math
from pathlib import Path

import onnx

from comq_onnx.graph.scopes import Scope, integer_attribute
from comq_onnx.targets.view import View

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NBITS = "MatMulNBits"
BITS = {
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
}
FLOAT = 32
ROUNDED = 8
"""Bits that are counted for floats that a QuantizeLinear of the file itself rounds"""


def coverage(path: Path) -> dict[int, int]:
    """Elements of the weights of Conv, Gemm and MatMul by the bits of a code, floats under `FLOAT`."""
    view = View(onnx.load(path), path.parent)
    counted: dict[int, int] = {}
    for node, scope in view.nodes():
        found = None
        if node.op_type == NBITS:
            size = integer_attribute(node, "K", 0) * integer_attribute(node, "N", 0)
            found = integer_attribute(node, "bits", 4), size
        elif node.op_type in WEIGHTED:
            constant = [name for name in reversed(node.input[:2]) if view.is_constant(name, scope)]
            found = _weight(view, constant[0], scope) if constant else None
        if found:
            counted[found[0]] = counted.get(found[0], 0) + found[1]
    return counted


def _weight(view: View, name: str, scope: Scope) -> tuple[int, int]:
    """Bits and elements of the largest constant that `name` is computed from."""
    tensor, node = view.constant(name, scope), scope.producer(name)
    if tensor is not None or node is None:
        return (BITS.get(tensor.data_type, FLOAT), math.prod(tensor.dims)) if tensor else (FLOAT, 0)
    bits, elements = max((_weight(view, i, scope) for i in node.input if i), key=lambda found: found[1])
    return (min(bits, ROUNDED) if node.op_type == "QuantizeLinear" else bits), elements


def percent_quantized(counted: dict[int, int]) -> float:
    """Percent of the elements that have a code of 8 bits or fewer."""
    quantized = sum(n for bits, n in counted.items() if bits < FLOAT)
    return 100.0 * quantized / max(1, sum(counted.values()))
