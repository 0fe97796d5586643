"""Weight tensors as rows: ``(groups, rows, cols)``, rows summed over, cols output channels.

`records.Layout` names the kinds. Rows of a convolution run over the input channel of the group first and
over the kernel positions last, so a row meets the same input as in an im2col patch of that order.
"""

import math
from typing import cast

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import node_of
from comq_onnx.graph.tensors import values_of
from comq_onnx.records import Layer, Layout, LayoutKind


def layout_of(kind: LayoutKind, shape: tuple[int, ...], group: int = 1) -> Layout:
    """The layout of a weight tensor of `shape`; `group` is that of a convolution."""
    if kind == "matmul":
        groups, rows, cols = math.prod(shape[:-2]), shape[-2], shape[-1]
    elif kind == "matmul_left":
        groups, rows, cols = math.prod(shape[:-2]), shape[-1], shape[-2]
    elif kind == "conv":
        groups, rows, cols = group, math.prod(shape[1:]), shape[0] // group
    elif kind == "conv_transpose":
        groups, rows, cols = group, shape[0] // group * math.prod(shape[2:]), shape[1]
    else:
        groups, rows, cols = 1, shape[1], shape[0]
    return Layout(kind, tuple(shape), groups, rows, cols)


def weight_tensor(model: Model, layer: Layer) -> gs.Constant:
    """The constant that holds the weight of `layer`."""
    node, _ = node_of(model, layer)
    return cast(gs.Constant, next(t for t in node.inputs if t.name == layer.weight))


def weight_values(model: Model, layer: Layer) -> np.ndarray:
    """The weight of `layer` as a new float64 array in the shape of its tensor."""
    return values_of(weight_tensor(model, layer)).astype(np.float64)


def to_rows(weight: np.ndarray, layout: Layout) -> np.ndarray:
    """``(groups, rows, cols)`` of a weight tensor; a view where the axes allow it."""
    target = (layout.groups, layout.rows, layout.cols)
    if layout.kind == "matmul":
        return weight.reshape(target)
    if layout.kind == "matmul_left":
        return weight.reshape(layout.groups, layout.cols, layout.rows).swapaxes(1, 2)
    if layout.kind == "conv":
        return weight.reshape(layout.groups, layout.cols, layout.rows).swapaxes(1, 2)
    if layout.kind == "conv_transpose":
        return weight.reshape(_transposed_shape(layout)).swapaxes(2, 3).reshape(target)
    return weight.T[None]


def from_rows(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """The inverse of `to_rows`, for any element type: a contiguous array in the shape of the tensor."""
    if layout.kind == "matmul":
        tensor = rows
    elif layout.kind == "conv_transpose":
        groups, inputs, cols, taps = _transposed_shape(layout)
        tensor = rows.reshape(groups, inputs, taps, cols).swapaxes(2, 3)
    else:
        tensor = rows.swapaxes(1, 2)
    return np.ascontiguousarray(tensor).reshape(layout.shape)


def per_column_to_weight(values: np.ndarray, layout: Layout) -> np.ndarray:
    """``(groups, cols)`` as the smallest array that broadcasts against the weight tensor.

    Shapes: matmul ``[*batch, 1, N]``, matmul_left ``[*batch, M, 1]``, conv ``[O, 1, ...]``, conv_transpose
    ``[1, O, 1, ...]`` without groups and ``[I, O/g, 1, ...]`` with them, gather ``[V, 1]``.
    """
    shape = layout.shape
    if layout.kind == "matmul":
        return values.reshape(*shape[:-2], 1, shape[-1])
    if layout.kind == "matmul_left":
        return values.reshape(*shape[:-2], shape[-2], 1)
    ones = (1,) * (len(shape) - 2)
    if layout.kind == "conv_transpose":
        per_input = np.repeat(values, shape[0] // layout.groups, axis=0) if layout.groups > 1 else values
        return per_input.reshape(-1, shape[1], *ones)
    return values.reshape(shape[0], 1, *ones)


def per_column_to_output(values: np.ndarray, layout: Layout) -> np.ndarray:
    """``(groups, cols)`` as an array that broadcasts against the node's output, or is a convolution's bias.

    Shapes: matmul ``[N]``, batched ``[*batch, 1, N]``, matmul_left ``[*batch, M, 1]``, conv and
    conv_transpose ``[O]``; where a MatMul multiplies a vector, without its axis of size 1. A gather has none:
    its columns are entries of a table, not output channels.
    """
    shape = layout.shape
    if layout.kind == "gather":
        raise ValueError("a gather has no output channels")
    if layout.kind == "matmul" and layout.groups == 1:
        return values.reshape(shape[-1])
    if layout.kind in ("matmul", "matmul_left"):
        summed = -2 if layout.kind == "matmul" else -1
        found = per_column_to_weight(values, layout)
        return found.squeeze(summed) if layout.vector else found
    return values.reshape(-1)


def _transposed_shape(layout: Layout) -> tuple[int, int, int, int]:
    inputs = layout.shape[0] // layout.groups
    return layout.groups, inputs, layout.cols, math.prod(layout.shape[2:])
