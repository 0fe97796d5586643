from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from comq_onnx.graph.layout import from_rows, layout_of, per_column_to_output, per_column_to_weight, to_rows

CASES = [
    ("matmul", (6, 4), 1),
    ("matmul", (3, 6, 4), 1),
    ("matmul", (2, 3, 6, 4), 1),
    ("matmul_left", (4, 6), 1),
    ("matmul_left", (3, 4, 6), 1),
    ("conv", (8, 3, 5), 1),
    ("conv", (8, 3, 3, 2), 2),
    ("conv", (6, 1, 3, 3), 6),
    ("conv", (4, 2, 2, 3, 2), 2),
    ("conv_transpose", (6, 4, 3, 2), 1),
    ("conv_transpose", (6, 4, 3, 2), 3),
    ("conv_transpose", (6, 4, 3), 2),
    ("gather", (7, 5), 1),
]


def weight(shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize(("kind", "shape", "group"), CASES)
def test_rows_come_back(kind, shape, group):
    layout = layout_of(kind, shape, group)
    rows = to_rows(weight(shape), layout)
    assert rows.shape == (layout.groups, layout.rows, layout.cols)
    np.testing.assert_array_equal(from_rows(rows, layout), weight(shape))
    codes = np.arange(rows.size, dtype=np.int8).reshape(rows.shape)
    tensor = from_rows(codes, layout)
    assert tensor.dtype == np.int8
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(to_rows(tensor, layout), codes)


@pytest.mark.parametrize(("kind", "shape", "group"), CASES)
def test_per_column_values_meet_their_columns(kind, shape, group):
    layout = layout_of(kind, shape, group)
    scale = 1.0 + np.arange(layout.groups * layout.cols, dtype=np.float64).reshape(layout.groups, layout.cols)
    broadcast = per_column_to_weight(scale, layout)
    assert broadcast.ndim == len(shape)
    np.testing.assert_allclose(
        to_rows(weight(shape) * broadcast, layout), to_rows(weight(shape), layout) * scale[:, None, :]
    )


def test_smallest_broadcast_shapes():
    def shape_of(kind, shape, group=1):
        layout = layout_of(kind, shape, group)
        return per_column_to_weight(np.ones((layout.groups, layout.cols)), layout).shape

    assert shape_of("conv", (8, 3, 3, 2), 2) == (8, 1, 1, 1)
    assert shape_of("conv_transpose", (6, 4, 3, 2)) == (1, 4, 1, 1)
    assert shape_of("conv_transpose", (6, 4, 3, 2), 3) == (6, 4, 1, 1)
    assert shape_of("matmul", (3, 6, 4)) == (3, 1, 4)
    assert shape_of("matmul_left", (4, 6)) == (4, 1)
    assert shape_of("gather", (7, 5)) == (7, 1)


@pytest.mark.parametrize("kind", ["matmul", "matmul_left"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_what_is_added_to_the_product_with_a_vector_has_its_shape(kind, batch):
    wide = np.ones((*batch, 6, 4) if kind == "matmul" else (*batch, 4, 6))
    product = np.ones(6) @ wide if kind == "matmul" else wide @ np.ones(6)
    layout = replace(layout_of(kind, wide.shape), vector=True)
    values = np.arange(layout.groups * 4.0).reshape(layout.groups, 4)
    added = product + per_column_to_output(values, layout)
    np.testing.assert_array_equal(added, product + values.reshape(product.shape))


@pytest.mark.parametrize(("kind", "shape", "group"), [case for case in CASES if case[0] != "gather"])
def test_adding_to_the_output_is_adding_to_each_column(kind, shape, group):
    """A bias placed by `per_column_to_output` is what a weight row that sees ones would add."""
    layout = layout_of(kind, shape, group)
    bias = np.random.default_rng(1).standard_normal((layout.groups, layout.cols))
    ones = np.zeros((layout.groups, layout.rows, layout.cols))
    if kind in ("conv", "conv_transpose"):
        taps = int(np.prod(shape[2:]))
        ones[:, taps // 2] = bias
        names, inputs = (shape[1] * group, shape[0])[kind == "conv_transpose"], shape[2:]
        x = np.zeros((1, names, *(2 * k for k in inputs)))
        per_group = names // group
        for g in range(group):
            x[:, g * per_group] = 1.0
        op = "Conv" if kind == "conv" else "ConvTranspose"
        got = evaluate(op, x, from_rows(ones, layout), group)
        inner = (0, slice(None), *(slice(k, -k) for k in inputs))
        expected = np.broadcast_to(
            per_column_to_output(bias, layout).reshape(-1, *(1,) * len(inputs)), got[inner].shape
        )
        np.testing.assert_allclose(got[inner], expected, rtol=1e-5, atol=1e-5)
        return
    ones[:, 0] = bias
    tensor = from_rows(ones, layout)
    if kind == "matmul":
        x = np.ones((*shape[:-2], 3, shape[-2]))
        got = x @ tensor
    else:
        got = tensor @ np.ones((*shape[:-2], shape[-1], 3))
    addend = per_column_to_output(bias, layout)
    np.testing.assert_allclose(got, np.broadcast_to(addend, got.shape))


def evaluate(op, x, w, group):
    node = helper.make_node(op, ["x", "w"], ["y"], group=group)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, 1, None) for n in "xw"],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.astype(np.float32), "w": w.astype(np.float32)})[0]


@pytest.mark.parametrize("group", [1, 2])
def test_conv_rows_meet_patches(group):
    """Columns of the row layout times im2col patches, input channel first, are the convolution."""
    rng = np.random.default_rng(2)
    w, x = rng.standard_normal((4, 3, 2, 3)), rng.standard_normal((1, 3 * group, 5, 6))
    layout = layout_of("conv", w.shape, group)
    rows = to_rows(w, layout)
    got = evaluate("Conv", x, w, group)[0]
    for i in range(got.shape[1]):
        for j in range(got.shape[2]):
            patch = x[0, :, i : i + 2, j : j + 3].reshape(group, -1)
            np.testing.assert_allclose(
                np.einsum("gk,gkm->gm", patch, rows).reshape(-1), got[:, i, j], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("group", [1, 3])
def test_conv_transpose_rows_meet_flipped_patches(group):
    rng = np.random.default_rng(3)
    w, x = rng.standard_normal((6, 2, 2, 3)), rng.standard_normal((1, 6, 4, 4))
    rows = to_rows(w, layout_of("conv_transpose", w.shape, group))
    got = evaluate("ConvTranspose", x, w, group)[0]
    padded = np.pad(x[0], ((0, 0), (1, 1), (2, 2)))
    for i in range(got.shape[1]):
        for j in range(got.shape[2]):
            patch = padded[:, i : i + 2, j : j + 3][:, ::-1, ::-1].reshape(group, -1)
            np.testing.assert_allclose(
                np.einsum("gk,gkm->gm", patch, rows).reshape(-1), got[:, i, j], rtol=1e-4, atol=1e-5
            )


def test_a_gather_has_no_output_channels():
    with pytest.raises(ValueError, match="no output channels"):
        per_column_to_output(np.ones((1, 7)), layout_of("gather", (7, 5)))
