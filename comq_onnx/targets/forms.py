"""The ways to store a quantized weight as ONNX nodes. The codes of the solution are written as they are.

Two forms. ``DequantizeLinear`` keeps the codes in the runtime's memory where the runtime fuses it into the
product, and is recomputed on every call where it does not. ``(Cast(codes) - zero_point) * scale`` is folded
to floats when the model is loaded: the speed of the float model from a small file, on any layer.
"""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.layout import from_rows, per_column_to_weight
from comq_onnx.records import Layer, Layout, Solution
from comq_onnx.targets.blocks import is_right_side, stored_block
from comq_onnx.targets.piece import Piece, reshape
from comq_onnx.targets.planes import codes_of_planes, holds_planes


@dataclass(frozen=True)
class LinearPlan:
    """The shape of a DequantizeLinear: its axis, its block size (0: one scale per index of the axis)."""

    axis: int
    block: int


def is_ragged(solution: Solution, layout: Layout) -> bool:
    """Whether the last block is shorter than the others, which no form holds; targets never choose it."""
    return layout.rows % solution.grid.rows_per_block(layout.rows) != 0


def plan_linear(layer: Layer, solution: Solution, bits: int) -> LinearPlan | None:
    """How a DequantizeLinear can hold `solution`; None where no axis and block size can.

    Right-side weights ``[K, N]``: axis 0 in blocks, or axis 1. Others, on request: Conv axis 0, ConvTranspose
    axis 1 without groups, left-side weights ``[M, K]`` axis 0 per channel or axis 1 in blocks.
    """
    layout, blocks = layer.layout, solution.scale.shape[1]
    if layer.dtype == "float64" or is_ragged(solution, layout):
        return None
    if is_right_side(layout):
        block = 0 if bits == 8 and blocks == 1 else stored_block(layout.rows, blocks, bits)
        return LinearPlan(0 if block else 1, block)
    if layout.kind == "matmul_left" and len(layout.shape) == 2:
        return LinearPlan(0, 0) if blocks == 1 else LinearPlan(1, layout.rows // blocks)
    if blocks > 1 or layout.kind not in ("conv", "conv_transpose"):
        return None
    if layout.kind == "conv_transpose":
        return LinearPlan(1, 0) if layout.groups == 1 else None
    return LinearPlan(0, 0)


def dequantize_linear(piece: Piece, solution: Solution, bits: int, plan: LinearPlan) -> gs.Variable:
    """``DequantizeLinear(codes, scale[, zero_point])`` with a non-negative axis."""
    layout = piece.layer.layout

    def placed(per_block: np.ndarray) -> np.ndarray:
        if not plan.block:
            return per_block[:, 0].reshape(-1)
        spread = np.repeat(per_block[0], layout.rows // plan.block // per_block.shape[1], axis=0)
        return spread if plan.axis == 0 else spread.T

    inputs: list[gs.Tensor] = [
        piece.integers("quantized", from_rows(solution.codes, layout), bits),
        piece.floats("scale", placed(solution.scale)),
    ]
    if solution.zero_point is not None:
        inputs.append(piece.integers("zero_point", placed(solution.zero_point), bits))
    attrs = {"axis": plan.axis} | ({"block_size": plan.block} if plan.block else {})
    return piece.node("DequantizeLinear", inputs, **attrs)


def cast_times_scale(piece: Piece, solution: Solution, bits: int) -> gs.Variable:
    """``(Cast(codes) - Cast(zero_point)) * scale``, reshaped where scales would not broadcast."""
    layout, blocks = piece.layer.layout, solution.scale.shape[1]
    if is_ragged(solution, layout):
        raise ValueError(f"{piece.layer.name}: {solution.grid} does not divide {layout.rows} rows")
    plain = blocks == 1 and (layout.kind != "conv_transpose" or layout.groups in (1, layout.shape[0]))

    def placed(per_block: np.ndarray) -> np.ndarray:
        return per_column_to_weight(per_block[:, 0], layout) if plain else split(per_block, blocks, layout)

    codes = from_rows(solution.codes, layout) if plain else split(solution.codes, blocks, layout)
    if holds_planes(piece.layer, solution.grid, bits):
        steps = codes_of_planes(piece, codes, solution.grid.bits)
    else:
        steps = piece.cast(piece.integers("quantized", codes, bits))
    if solution.zero_point is not None:
        zero_point = piece.cast(piece.integers("zero_point", placed(solution.zero_point), bits))
        steps = piece.node("Sub", [steps, zero_point])
    weight = piece.node("Mul", [steps, piece.floats("scale", placed(solution.scale))])
    return weight if plain else joined(piece, weight)


def split(values: np.ndarray, blocks: int, layout: Layout) -> np.ndarray:
    """``(groups, rows or blocks, cols)`` with rows as two axes, of which scales broadcast over the second.

    Right-side weights keep their order, ``[*batch, blocks, block, N]``; for all others a column's rows lie
    side by side, ``(groups, cols, blocks, block)``, as they do in the weight tensor of a Conv.
    """
    groups, rows, cols = values.shape
    if layout.kind == "matmul":
        return values.reshape(*layout.shape[:-2], blocks, rows // blocks, cols)
    return values.swapaxes(1, 2).reshape(groups, cols, blocks, rows // blocks)


def joined(piece: Piece, weight: gs.Variable) -> gs.Variable:
    """Bring what `split` made back to the shape of the weight tensor."""
    layout = piece.layer.layout
    if layout.kind == "conv_transpose":
        inputs, kernel = layout.shape[0] // layout.groups, layout.shape[2:]
        weight = reshape(piece, weight, (layout.groups, layout.cols, inputs, *kernel))
        weight = piece.node("Transpose", [weight], perm=[0, 2, 1, *range(3, 3 + len(kernel))])
    return reshape(piece, weight, layout.shape)
