"""Codes of bits that ONNX has no type for, as bit planes: 3 bits take 3 bits of the file, 6 take 6.

Eight codes take as many bytes as a code has bits: one for all of their lowest bits, one for the next, and so
on. Behind the constant a mask and a sum give the codes back, exactly, in operators that every runtime has and
that are folded to floats when the file is loaded, as ``Cast * scale`` is. Codes are in two's complement, so
that the highest plane counts negative and nothing has to be subtracted: OpenVINO (2026.4) goes wrong where a
zero point is subtracted from what bit operations computed.
"""

from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.tensors import array_tensor, float_tensor
from comq_onnx.grid import Grid
from comq_onnx.records import Layer
from comq_onnx.targets.piece import Piece, reshape

LANES = 8
"""Codes to a byte of a plane"""
FEWEST = 2048
"""Bytes for whose sake planes are written: the nodes around them take half of that"""
SPARED = 7
"""Bits of codes that are int8 with room to spare"""


def holds_planes(layer: Layer, grid: Grid, bits: int) -> bool:
    """Whether a weight's codes lie in planes and not in a type of `bits`: where that saves any.

    Not with zero points, and not in bfloat16, in which onnxruntime computes nothing on a CPU.
    """
    codes = prod(layer.layout.shape)
    saved = codes * (bits - grid.bits) // 8
    narrower = grid.symmetric and grid.bits < bits and grid.bits != SPARED
    return narrower and layer.dtype != "bfloat16" and saved >= FEWEST and codes % LANES == 0


def codes_of_planes(piece: Piece, codes: np.ndarray, bits: int) -> gs.Variable:
    """Nodes that make `codes` floats, of constants that take `bits` bits for each.

    `codes` are signed, of any shape whose size `LANES` divides.
    """
    lanes = np.arange(LANES, dtype=np.uint8)[:, None]
    masks = np.left_shift(np.uint8(1), lanes)
    planes = piece.integers("planes", packed(codes, bits), 8)
    taken = piece.node("BitwiseAnd", [planes, array_tensor(piece.name("masks"), masks)])
    worth = np.ldexp(1.0, np.arange(bits))
    worth[-1] *= -1
    units = worth[:, None, None] / masks
    parts = piece.node(
        "Mul", [piece.cast(taken), float_tensor(piece.name("units"), units, piece.layer.dtype)]
    )
    axes = array_tensor(piece.name("axes"), np.array([0], np.int64))
    return reshape(piece, piece.node("ReduceSum", [parts, axes], keepdims=0), codes.shape)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """The planes of signed `codes`, ``(bits, 1, codes / 8)`` uint8, from the lowest to that of the sign.

    The codes lie in `LANES` stretches, of which each has a bit of every byte.
    """
    stretches = codes.reshape(LANES, -1).astype(np.int16)
    lanes = np.arange(LANES, dtype=np.uint8)[:, None]
    planes = [((stretches >> plane) & 1).astype(np.uint8) << lanes for plane in range(bits)]
    return np.stack([np.bitwise_or.reduce(plane, axis=0, keepdims=True) for plane in planes])
