"""Embeddings as tables of codes: only the rows that are looked up become floats.

In onnxruntime a Gather has no kernel for 4-bit codes, and a DequantizeLinear in front of one computes the
whole table on every call. Here codes of fewer than 8 bits lie several to a byte in a uint8 table, and are
taken apart behind the Gather by operators that every runtime has, at any rank of the indices. Bytes are not
shifted: OpenVINO (2026.4) rounds what BitShift moves out.
"""

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.layout import from_rows, per_column_to_weight
from comq_onnx.graph.locate import free_name
from comq_onnx.graph.tensors import array_tensor, float_tensor
from comq_onnx.records import Solution
from comq_onnx.targets.piece import Piece


def row_bits(bits: int) -> int:
    """Bits that a code of an embedding takes in the file: 2, 4 or 8."""
    return 2 if bits == 2 else 4 if bits <= 4 else 8


def byte_rows(piece: Piece, solution: Solution, node: gs.Node) -> gs.Variable:
    """``(Cast(Gather(codes)) - Cast(Gather(zero_point))) * Gather(scale)``: computes the rows looked up.

    `node` is the Gather itself, along axis 0; it comes to read the codes. The answer is the float tensor that
    takes the place of its output. Indices may be negative and of any rank: every Gather sees the same ones.
    """
    layout = piece.layer.layout
    steps = piece.cast(_look_up(piece, node, from_rows(solution.codes, layout)))
    if solution.zero_point is not None:
        table = per_column_to_weight(solution.zero_point[:, 0], layout)
        steps = piece.node("Sub", [steps, piece.cast(_beside(piece, node, "zero_point", table))])
    scale = per_column_to_weight(solution.scale[:, 0], layout)
    return piece.node("Mul", [steps, _beside(piece, node, "scale", scale)])


def packed_rows(piece: Piece, solution: Solution, node: gs.Node) -> gs.Variable:
    """As `byte_rows`, for codes of 2 to 4 bits: several lie in a byte, and entries may have several blocks.

    A block of rows lies in ``block * bits / 8`` bytes, its first part in their lowest bits, and so on. The
    byte beside its masks has an axis for these lanes; what is masked is a code times a power of two, which
    is divided out in float. A Reshape then puts lanes and blocks in a row. ValueError where a row of the
    table does not fill its bytes.
    """
    layout, blocks, bits = piece.layer.layout, solution.scale.shape[1], row_bits(solution.grid.bits)
    lanes, dtype = 8 // bits, piece.layer.dtype
    if layout.rows % (blocks * lanes):
        raise ValueError(f"{piece.layer.name}: {layout.rows} codes do not fill bytes in {blocks} blocks")
    middle = 0 if solution.zero_point is not None else 1 << (bits - 1)
    codes = from_rows(solution.codes, layout).reshape(layout.cols, blocks, lanes, -1)
    shifts = bits * np.arange(lanes, dtype=np.uint8)[:, None]
    unsigned = (codes + np.int16(middle)).astype(np.uint8)
    table = np.bitwise_or.reduce(unsigned << shifts, axis=2, keepdims=True)
    masks = array_tensor(piece.name("masks"), np.uint8((1 << bits) - 1) << shifts)
    parts = piece.cast(piece.node("BitwiseAnd", [_look_up(piece, node, table), masks]))
    units = float_tensor(piece.name("units"), np.ldexp(1.0, -shifts.astype(int)), dtype)
    steps = piece.node("Mul", [parts, units])

    def placed(per_block: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(per_block[0].T).reshape(layout.cols, blocks, 1, 1)

    if solution.zero_point is None:
        zero: gs.Tensor = float_tensor(piece.name("middle"), np.array(middle), dtype)
    else:
        zero = piece.cast(_beside(piece, node, "zero_point", placed(solution.zero_point)))
    steps = piece.node("Sub", [steps, zero])
    values = piece.node("Mul", [steps, _beside(piece, node, "scale", placed(solution.scale))])
    width = array_tensor(piece.name("width"), np.array([layout.rows], np.int64))
    shape = piece.node("Concat", [piece.node("Shape", [node.inputs[1]]), width], axis=0)
    return piece.node("Reshape", [values, shape])


def _look_up(piece: Piece, node: gs.Node, table: np.ndarray) -> gs.Variable:
    """Let the Gather read `table`; its new output."""
    looked_up = gs.Variable(free_name(f"{node.outputs[0].name}_quantized", piece.taken))
    node.inputs[0], node.outputs[0] = piece.integers("quantized", table, 8), looked_up
    return looked_up


def _beside(piece: Piece, node: gs.Node, suffix: str, table: np.ndarray) -> gs.Variable:
    """Rows of another table at the same indices."""
    held = piece.floats(suffix, table) if table.dtype.kind == "f" else piece.integers(suffix, table, 8)
    return piece.node("Gather", [held, node.inputs[1]], axis=0)
