"""Weights of any shape as rows: what lies where, by the definition of each operator's weight."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from comq_onnx.graph.layout import from_rows, layout_of, per_column_to_weight, to_rows
from comq_onnx.records import LayoutKind

SIDE = st.integers(1, 4)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[LayoutKind, tuple[int, ...], int]:
    """Kind, shape of the weight tensor, and groups of a convolution."""
    kind = draw(st.sampled_from(["matmul", "matmul_left", "conv", "conv_transpose", "gather"]))
    if kind in ("matmul", "matmul_left"):
        return kind, tuple(draw(st.lists(SIDE, min_size=2, max_size=4))), 1
    if kind == "gather":
        return kind, (draw(SIDE), draw(SIDE)), 1
    group, kernel = draw(SIDE), draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    return kind, (group * draw(SIDE), draw(SIDE), *kernel), group


def place(
    kind: LayoutKind, index: tuple[int, ...], shape: tuple[int, ...], group: int
) -> tuple[int, int, int]:
    """Group, row and column of an element of the weight tensor, by the operators' definitions in ONNX."""
    if kind == "gather":  # an entry of the table is a column
        return 0, index[1], index[0]
    if kind in ("matmul", "matmul_left"):
        batch = int(np.ravel_multi_index(index[:-2], shape[:-2])) if shape[:-2] else 0
        *_, a, b = index
        return (batch, a, b) if kind == "matmul" else (batch, b, a)
    tap, taps = int(np.ravel_multi_index(index[2:], shape[2:])), int(np.prod(shape[2:]))
    each = shape[0] // group
    if kind == "conv":  # [outputs, inputs of the group, kernel]
        return index[0] // each, index[1] * taps + tap, index[0] % each
    return index[0] // each, index[0] % each * taps + tap, index[1]  # [inputs, outputs of the group, kernel]


@given(shapes())
def test_every_element_lies_where_its_operator_says(case: tuple[LayoutKind, tuple[int, ...], int]) -> None:
    kind, shape, group = case
    weight = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    layout = layout_of(kind, shape, group)
    rows = to_rows(weight, layout)
    assert rows.shape == (layout.groups, layout.rows, layout.cols)
    for index in np.ndindex(*shape):
        assert rows[place(kind, index, shape, group)] == weight[index]


@given(shapes(), st.sampled_from([np.int8, np.uint8, np.float16, np.float64]))
def test_there_and_back(case: tuple[LayoutKind, tuple[int, ...], int], dtype: type) -> None:
    kind, shape, group = case
    weight = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    layout = layout_of(kind, shape, group)
    back = from_rows(to_rows(weight, layout), layout)
    assert back.dtype == dtype
    assert back.flags.c_contiguous
    assert np.array_equal(back, weight)


@given(shapes())
def test_what_is_so_for_columns_is_broadcast_to_their_elements(
    case: tuple[LayoutKind, tuple[int, ...], int],
) -> None:
    kind, shape, group = case
    layout = layout_of(kind, shape, group)
    values = np.arange(layout.groups * layout.cols, dtype=np.float64).reshape(layout.groups, layout.cols)
    spread = np.broadcast_to(per_column_to_weight(values, layout), shape)
    for index in np.ndindex(*shape):
        g, _, m = place(kind, index, shape, group)
        assert spread[index] == values[g, m]
