"""Weights as onnxruntime's own operator ``com.microsoft::MatMulNBits``, for those who ask for it.

It is what onnxruntime makes of a DequantizeLinear before a product. Written as such it takes half the memory
while the file is loaded; nothing but onnxruntime, and OpenVINO, reads it.
"""

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.edit import BIAS_INPUT
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import node_of
from comq_onnx.grid import spread
from comq_onnx.records import Solution
from comq_onnx.targets.blocks import stored_block
from comq_onnx.targets.piece import Piece

DOMAIN = "com.microsoft"
INT8_ACTIVATIONS = 4
"""Accuracy level of the fast kernels, which round activations to int8; the others compute in float."""
BIAS_SLOT = 5


def nbits_block(rows: int, blocks: int, bits: int) -> int:
    """Rows per scale as `matmul_nbits` writes them; 0 where the operator cannot hold the scales."""
    block = stored_block(rows, blocks, bits)
    return block if block and rows % block == 0 else 0


def matmul_nbits(model: Model, piece: Piece, solution: Solution, bits: int) -> None:
    """Turn the layer's MatMul or Gemm into a MatMulNBits that holds `solution`, codes packed in `bits`.

    The operator's codes are unsigned, around ``2^(bits - 1)`` where there is no zero point. A Gemm's bias
    becomes the operator's. ValueError where no block size holds the scales (`nbits_block`).
    """
    layer, (node, _) = piece.layer, node_of(model, piece.layer)
    rows, cols = layer.layout.rows, layer.layout.cols
    block = nbits_block(rows, solution.scale.shape[1], bits)
    if not block:
        raise ValueError(f"{layer.name}: MatMulNBits does not hold blocks of {solution.grid}")
    middle = 1 << (bits - 1)
    shift = 0 if solution.zero_point is not None else middle
    codes = (solution.codes[0].astype(np.int16) + shift).astype(np.uint8)
    blocks = rows // block
    packed = pack(codes.T.reshape(cols, blocks, block), bits)
    per_block = spread(solution.scale, rows, rows // solution.scale.shape[1])[0, ::block]
    inputs: list[gs.Tensor] = [
        node.inputs[0],
        piece.integers("quantized", packed, 8),
        piece.floats("scale", np.ascontiguousarray(per_block.T)),
    ]
    if solution.zero_point is not None:
        zero = spread(solution.zero_point, rows, rows // solution.zero_point.shape[1])[0, ::block]
        inputs.append(piece.integers("zero_point", pack(np.ascontiguousarray(zero.T), bits), 8))
    if layer.op == "Gemm" and len(node.inputs) > BIAS_INPUT and not node.inputs[BIAS_INPUT].is_empty():
        inputs += [gs.Variable.empty()] * (BIAS_SLOT - len(inputs))
        inputs.append(node.inputs[BIAS_INPUT])
    node.op, node.domain = "MatMulNBits", DOMAIN
    node.attrs.clear()
    node.attrs.update(K=rows, N=cols, bits=bits, block_size=block, accuracy_level=INT8_ACTIVATIONS)
    node.inputs.clear()
    node.inputs.extend(inputs)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned codes along the last axis as bytes, the first code in the lowest bits; the rest is zero."""
    per_byte = 8 // bits
    missing = -codes.shape[-1] % per_byte
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    lanes = padded.reshape(*padded.shape[:-1], -1, per_byte).astype(np.uint16)
    shifts = np.arange(per_byte, dtype=np.uint16) * bits
    return np.bitwise_or.reduce(lanes << shifts, axis=-1).astype(np.uint8)
