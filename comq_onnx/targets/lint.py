"""What in a written file would not fuse, or not load in another runtime; read from the file alone."""

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from comq_onnx.targets.ranks import graphs_of

CODE_TYPES = (
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.INT2,
    TensorProto.UINT2,
)


def lint_weights(proto: onnx.ModelProto) -> tuple[str, ...]:
    """A sentence for each DequantizeLinear of an initializer that breaks a rule of the weight-only files."""
    found: list[str] = []
    for graph in graphs_of(proto.graph):
        tensors = {i.name: i for i in graph.initializer}
        reads = Counter(name for node in graph.node for name in node.input)
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
                found += [f"{node.name}: {text}" for text in _lint_linear(node, tensors, reads)]
            if node.op_type in ("MatMul", "Gemm") and (codes := _codes_of(node, graph, tensors)):
                found += [f"{node.name}: {text}" for text in _lint_product(node, codes)]
    return tuple(found)


def _lint_linear(node: onnx.NodeProto, tensors: dict[str, TensorProto], reads: Counter[str]) -> list[str]:
    codes, scale = tensors[node.input[0]], tensors.get(node.input[1])
    if codes.data_type not in CODE_TYPES or scale is None:
        return []
    axis, block = _attribute(node, "axis", 1), _attribute(node, "block_size", 0)
    found = []
    if axis < 0:
        found.append("its axis is negative, which is not fused")
    if block and (block & (block - 1) or not 16 <= block <= 256):
        found.append(f"its block size {block} is not a power of two from 16 to 256")
    if block and codes.dims[axis] % block:
        found.append(f"its block size {block} does not divide {codes.dims[axis]}")
    if reads[codes.name] > 1 or reads[node.output[0]] > 1:
        found.append("its codes or its output have more than one reader, which is not fused")
    if not np.all(numpy_helper.to_array(scale).astype(np.float64) > 0):
        found.append("a scale is not positive")
    if not scale.dims:
        found.append("it has one scale for the whole tensor, which is not fused")
    return found


def _lint_product(node: onnx.NodeProto, codes: TensorProto) -> list[str]:
    found = []
    if _attribute(node, "transB", 0):
        found.append("transB = 1 with a quantized weight is not fused")
    if codes.data_type in (TensorProto.INT2, TensorProto.UINT2) and codes.dims[-1] % 4:
        found.append(f"onnxruntime misreads 2-bit codes of {codes.dims[-1]} columns, which 4 does not divide")
    return found


def _codes_of(
    node: onnx.NodeProto, graph: onnx.GraphProto, tensors: dict[str, TensorProto]
) -> TensorProto | None:
    """The codes of the DequantizeLinear that makes the right operand of `node`."""
    linear = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] == node.input[1]]
    return tensors.get(linear[0].input[0]) if linear else None


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)
