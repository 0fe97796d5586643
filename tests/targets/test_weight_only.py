"""Every kind of layer, width, symmetry, granularity and target: the file computes what the solution says."""

import itertools

import numpy as np
import onnx
import pytest
from graphs import weight
from onnx import TensorProto, numpy_helper
from targets.layer_cases import (
    CASES,
    FUSED,
    Case,
    dequantized,
    initializers,
    loaded,
    optimized_ops,
    run,
    shaped_model,
    solve_nearest,
    with_weight,
)

from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.targets import TARGETS

GRIDS = [
    Grid(bits, symmetric, granularity, 32 if granularity == "block" else 0)
    for bits, symmetric, granularity in itertools.product(
        (8, 4, 3, 2), (True, False), ("channel", "block", "tensor")
    )
]
OPSETS = {"float32": 21, "float16": 21, "bfloat16": 22}
CODE_BITS = {("portable", 2): 4, ("ort", 2): 2}


def write(case, grid, target="portable", dtype="float32", form="auto"):
    """The written file, the layer, the solution and what the writer said."""
    layer = case.layer(dtype)
    if case.kind == "gather" and (grid.bits == 8 or grid.granularity == "tensor"):
        grid = Grid(grid.bits, grid.symmetric, "channel")
    if grid.granularity == "block" and layer.layout.rows % grid.block_size:
        grid = Grid(grid.bits, grid.symmetric, "channel")
    solution = solve_nearest(case.weight(dtype), layer, grid)
    source = loaded(case, 25 if target == "ort" and grid.bits == 2 else OPSETS[dtype], dtype)
    said = TARGETS[target].rewrite(
        source, [layer], {"n": solution}, Recipe(weight_form=form, size_first=True)
    )
    return to_proto(source), layer, solution, said[0]


def packed_bytes(tensor):
    return len(tensor.raw_data)


@pytest.mark.parametrize("target", ["portable", "ort"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", CASES)
def test_the_file_computes_the_dequantized_weight(kind, grid, target):
    case = CASES[kind]
    proto, layer, solution, said = write(case, grid, target)
    onnx.checker.check_model(proto, full_check=True)
    oracle = with_weight(case.proto(), dequantized(solution, layer))
    expected, found = run(oracle, case.feeds()), run(proto, case.feeds())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    stored = initializers(proto)
    assert "W" not in stored
    bits = 8 if solution.grid.bits == 8 else CODE_BITS.get((target, solution.grid.bits), 4)
    sign = "" if solution.grid.symmetric else "U"
    packed = kind == "gather" and bits < 8
    expected_type = "UINT8" if packed else f"{sign}INT{bits}"
    assert stored["W_quantized"].data_type == getattr(TensorProto, expected_type)
    parts = [t for n, t in stored.items() if n in ("W_quantized", "W_scale", "W_zero_point")]
    assert said.bytes_after == sum(map(packed_bytes, parts))
    assert ("W_zero_point" in stored) == (not solution.grid.symmetric)
    assert any(node.name == "n" and node.op_type == case.op for node in proto.graph.node)
    assert [o.name for o in proto.graph.output] == ["y"]
    # The 2-bit blocks of 32 that a case asks for would be faster as 64.
    assert {finding.rule for finding in TARGETS[target].lint(proto)} <= {"ORT-W17"}


@pytest.mark.parametrize("target", ["portable", "ort"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["channel", "block", "tensor"])
@pytest.mark.parametrize("kind", FUSED)
def test_onnxruntime_fuses_right_side_weights(kind, bits, symmetric, granularity, target, tmp_path):
    grid = Grid(bits, symmetric, granularity, 32 if granularity == "block" else 0)
    if kind == "matmul_odd" and bits == 2 and target == "ort":
        pytest.skip("not fused: a test of its own")
    case = CASES[kind]
    proto, layer, solution, said = write(case, grid, target)
    assert said.form == "DequantizeLinear"
    assert not said.note
    assert [n.name for n in proto.graph.node] == ["W_DequantizeLinear", "n"]
    assert optimized_ops(proto, tmp_path) == ["MatMulNBits"]
    expected = run(with_weight(case.proto(), dequantized(solution, layer)), case.feeds())
    largest = np.abs(expected).max()
    np.testing.assert_allclose(run(proto, case.feeds(), True), expected, rtol=1e-5, atol=1e-5 * largest)
    np.testing.assert_allclose(run(proto, case.feeds(), True, exact=False), expected, atol=3e-2 * largest)


@pytest.mark.parametrize(("rows", "form"), [(192, "Cast*scale"), (256, "DequantizeLinear")])
def test_products_of_few_rows_are_folded_for_onnxruntime(rows, form):
    """The fused product of a small weight is slower than float."""
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", (rows, 128)), "float32")
    text = f"g (float[B, {rows}] x) => (float[] y) {{ y = MatMul(x, W) }}"
    source = load(shaped_model(text, 21, W=weight(rows, 128)))
    source.graph.nodes[0].name = "n"
    solution = solve_nearest(weight(rows, 128), layer, Grid(4))
    (said,) = TARGETS["ort"].rewrite(source, [layer], {"n": solution}, Recipe())
    assert said.form == form
    assert bool(said.choice) == (rows == 192)
    assert not said.note


@pytest.mark.parametrize("grid", [Grid(4), Grid(8, False), Grid(4, True, "block", 32)], ids=str)
@pytest.mark.parametrize("kind", [k for k in CASES if k not in FUSED and k != "gather"])
def test_other_weights_are_folded_to_floats_at_load(kind, grid, tmp_path):
    proto, _, _, said = write(CASES[kind], grid)
    assert said.form == "Cast*scale"
    assert "DequantizeLinear" not in {n.op_type for n in proto.graph.node}
    assert optimized_ops(proto, tmp_path) == optimized_ops(CASES[kind].proto(), tmp_path)


@pytest.mark.parametrize(
    "kind", ["matmul", "gemm_bias", "conv", "conv_transpose", "gather", "matmul_batched"]
)
@pytest.mark.parametrize("grid", [Grid(8), Grid(4, False), Grid(4, True, "block", 32)], ids=str)
def test_half_precision_scales_and_outputs(kind, grid):
    case = CASES[kind]
    proto, layer, solution, _ = write(case, grid, dtype="float16")
    onnx.checker.check_model(proto, full_check=True)
    assert initializers(proto)["W_scale"].data_type == TensorProto.FLOAT16
    oracle = with_weight(case.proto(dtype="float16"), dequantized(solution, layer))
    expected, found = run(oracle, case.feeds("float16")), run(proto, case.feeds("float16"))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=4e-3)


@pytest.mark.parametrize("kind", ["matmul", "conv", "gather"])
def test_bfloat16_is_stored_as_such(kind):
    proto, _, _, _ = write(CASES[kind], Grid(8), dtype="bfloat16")
    onnx.checker.check_model(proto, full_check=True)
    assert initializers(proto)["W_scale"].data_type == TensorProto.BFLOAT16


@pytest.mark.parametrize("kind", ["conv", "conv_depthwise", "conv_transpose", "matmul_left"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_weight_form_dq(kind, symmetric):
    case = CASES[kind]
    proto, layer, solution, said = write(case, Grid(4, symmetric), form="dq")
    assert said.form == "DequantizeLinear"
    assert said.note == ""
    oracle = with_weight(case.proto(), dequantized(solution, layer))
    np.testing.assert_allclose(run(proto, case.feeds()), run(oracle, case.feeds()), rtol=1e-5, atol=1e-5)


def test_weight_form_dq_where_no_axis_holds_the_scales():
    proto, _, _, said = write(CASES["conv_transpose_grouped"], Grid(4), form="dq")
    assert said.form == "Cast*scale"
    assert said.note
    onnx.checker.check_model(proto)


@pytest.mark.parametrize("shared", [True, False])
def test_names_already_taken_are_not_reused(shared):
    text = "g (float[B, 64] x) => (float[] y) { W_scale = MatMul(x, W) y = Relu(W_scale) }"
    source = load(shaped_model(text, 21, W=weight(64, 8)))
    source.graph.nodes[0].name = "n"
    source.graph.nodes[1].name = "W_DequantizeLinear" if shared else ""
    layer = Layer("n", "MatMul", "W", "x", "W_scale", layout_of("matmul", (64, 8)), "float32")
    solution = solve_nearest(weight(64, 8), layer, Grid(4))
    TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe(size_first=True))
    proto = to_proto(source)
    onnx.checker.check_model(proto, full_check=True)
    assert {"W_scale_1", "W_quantized"} <= set(initializers(proto))
    names = [n.name for n in proto.graph.node if n.name]
    assert len(names) == len(set(names))


MATRIX_SUMS = {
    "gemm_matrix": ("g (float[5, 64] x) => (float[] y) { y = Gemm(x, W, C) }", (5, 24), "Gemm", "Cast*scale"),
    "gemm_row": (
        "g (float[B, 64] x) => (float[] y) { y = Gemm(x, W, C) }",
        (1, 24),
        "Gemm",
        "DequantizeLinear",
    ),
    "gemm_scalar": (
        "g (float[B, 64] x) => (float[] y) { y = Gemm(x, W, C) }",
        (),
        "Gemm",
        "DequantizeLinear",
    ),
    "add_row": (
        "g (float[B, 64] x) => (float[] y) { h = MatMul(x, W) y = Add(h, C) }",
        (1, 24),
        "MatMul",
        "DequantizeLinear",
    ),
    "add_matrix": (
        "g (float[5, 64] x) => (float[] y) { h = MatMul(x, W) y = Add(C, h) }",
        (5, 24),
        "MatMul",
        "DequantizeLinear",
    ),
    "add_computed": (
        "g (float[B, 64] x) => (float[] y) { r = Mul(C, C) h = MatMul(x, W) y = Add(h, r) }",
        (1, 24),
        "MatMul",
        "DequantizeLinear",
    ),
    "add_sequence": (
        "g (float[B, 5, 64] x) => (float[] y) { h = MatMul(x, W) y = Add(h, C) }",
        (5, 24),
        "MatMul",
        "DequantizeLinear",
    ),
    "add_deep_row": (
        "g (float[B, 64] x) => (float[] y) { h = MatMul(x, W) y = Add(h, C) }",
        (1, 1, 24),
        "MatMul",
        "DequantizeLinear",
    ),
}


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("name", MATRIX_SUMS)
def test_what_is_added_decides_about_the_form(name, compensated, tmp_path):
    text, shape, op, form = MATRIX_SUMS[name]
    values = {
        "W": weight(64, 24, seed=3),
        "C": np.asarray(weight(*shape, seed=5) if shape else 0.5, np.float32),
    }
    proto = shaped_model(text, 21, **values)
    source = load(proto)
    next(n for n in source.graph.nodes if n.op == op).name = "n"
    layer = Layer(
        "n", op, "W", "x", source.graph.nodes[-1].inputs[0].name, layout_of("matmul", (64, 24)), "float32"
    )
    bias = weight(1, 24, seed=9).astype(np.float64) if compensated else None
    solution = solve_nearest(values["W"], layer, Grid(4), bias)
    said = TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe(size_first=True))[0]
    assert said.form == form
    assert bool(said.note) == (said.form == "Cast*scale")
    written = to_proto(source)
    assert "DequantizeLinear" not in optimized_ops(written, tmp_path)
    feeds = {
        "x": np.random.default_rng(1).standard_normal((2, 5, 64) if "B, 5" in text else (5, 64), np.float32)
    }
    added = 0 if bias is None else bias[0]
    expected = run(with_weight(proto, dequantized(solution, layer)), feeds) + added
    for optimize in (False, True):
        found = run(written, feeds, optimize)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


BRANCHES = """
g (bool c, float[B, 64] x) => (float[B, 24] y) {
  y = If (c) <
    then_branch = t () => (float[B, 24] p) { p = MatMul(x, W) },
    else_branch = e () => (float[B, 24] q) { q = Relu(s) }
  >
}"""


def test_weights_inside_a_branch(tmp_path):
    text = BRANCHES.replace("q = Relu(s)", "h = MatMul(x, V) q = Relu(h)")
    values = {"W": weight(64, 24, seed=3), "V": weight(64, 24, seed=4)}
    source = load(shaped_model(text, 21, **values))
    layers, solutions = [], {}
    for name, graph in zip(("W", "V"), source.graph.nodes[0].subgraphs(), strict=True):
        node = graph.nodes[0]
        node.name = f"n{name}"
        layout = layout_of("matmul", (64, 24))
        layer = Layer(
            node.name, "MatMul", name, "x", node.outputs[0].name, layout, "float32", in_subgraph=True
        )
        layers.append(layer)
        bias = np.ones((1, 24)) * 0.25
        solutions[node.name] = solve_nearest(values[name], layer, Grid(4), bias)
    TARGETS["portable"].rewrite(source, layers, solutions, Recipe(size_first=True))
    proto = to_proto(source)
    onnx.checker.check_model(proto, full_check=True)
    assert optimized_ops(proto, tmp_path).count("MatMulNBits") == 2
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    for flag, layer in zip((True, False), layers, strict=True):
        expected = x @ dequantized(solutions[layer.name], layer) + 0.25
        expected = expected if flag else np.maximum(expected, 0)
        for optimize in (False, True):
            found = run(proto, {"c": np.array(flag), "x": x}, optimize)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gather_along_another_axis_is_dequantized_first(tmp_path):
    text = "g (int64[S] x) => (float[] y) { y = Gather<axis = 1>(W, x) }"
    source = load(shaped_model(text, 21, W=weight(6, 8, seed=3)))
    source.graph.nodes[0].name = "n"
    layer = Layer("n", "Gather", "W", "x", "y", layout_of("gather", (6, 8)), "float32")
    solution = solve_nearest(weight(6, 8, seed=3), layer, Grid(8))
    TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe(size_first=True))
    proto = to_proto(source)
    index = np.array([-1, 3, 0])
    np.testing.assert_allclose(run(proto, {"x": index}), dequantized(solution, layer)[:, index], rtol=1e-6)
    assert optimized_ops(proto, tmp_path) == ["Gather"]


def test_a_per_channel_scale_is_repeated_over_blocks():
    proto, _, solution, _ = write(CASES["matmul"], Grid(4))
    scale = numpy_helper.to_array(initializers(proto)["W_scale"])
    np.testing.assert_array_equal(scale, solution.scale[0])
    attributes = {a.name: a.i for a in proto.graph.node[0].attribute}
    assert attributes == {"axis": 0, "block_size": 64}


def test_two_bit_blocks_of_256_are_written_as_128():
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", (512, 4)), "float32")
    text = "g (float[B, 512] x) => (float[] y) { y = MatMul(x, W) }"
    source = load(shaped_model(text, 25, W=weight(512, 4)))
    source.graph.nodes[0].name = "n"
    solution = solve_nearest(weight(512, 4), layer, Grid(2, True, "block", 256))
    TARGETS["ort"].rewrite(source, [layer], {"n": solution}, Recipe(size_first=True))
    proto = to_proto(source)
    scale = numpy_helper.to_array(initializers(proto)["W_scale"])
    np.testing.assert_array_equal(scale, np.repeat(solution.scale[0], 2, axis=0))
    assert {a.name: a.i for a in proto.graph.node[0].attribute} == {"axis": 0, "block_size": 128}


@pytest.mark.parametrize("kind", ["matmul_ragged", "conv"])
def test_a_ragged_block_is_a_bug_of_the_caller(kind):
    case = CASES[kind]
    layer = case.layer()
    solution = solve_nearest(case.weight(), layer, Grid(4, True, "block", 24 if kind == "conv" else 16))
    source = loaded(case, 21)
    if layer.layout.rows % solution.grid.block_size == 0:
        pytest.fail("the block is not ragged")
    with pytest.raises(ValueError, match="does not divide"):
        TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe(size_first=True))


@pytest.mark.parametrize("target", ["ort", "web"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", [(33, 7), (32, 6), (5, 1), (120, 1871), (7, 9)], ids=str)
def test_two_bits_that_no_kernel_reads_are_folded(shape, symmetric, target, tmp_path):
    """A fused product would misread them; of an odd number of codes the last byte is not full."""
    rows, cols = shape
    values = weight(rows, cols, seed=3)
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", shape), "float32")
    text = f"g (float[B, {rows}] x) => (float[] y) {{ y = MatMul(x, W) }}"
    source = load(shaped_model(text, 25, W=values))
    source.graph.nodes[0].name = "n"
    solution = solve_nearest(values, layer, Grid(2, symmetric))
    (said,) = TARGETS[target].rewrite(source, [layer], {"n": solution}, Recipe(target=target))
    proto = to_proto(source)
    onnx.checker.check_model(proto, full_check=True)
    assert said.form == "Cast*scale"
    assert not said.note
    assert (("misreads" in said.choice) or ("slower" in said.choice)) == (target == "ort")
    kind = "INT2" if symmetric else "UINT2"
    assert initializers(proto)["W_quantized"].data_type == getattr(TensorProto, kind)
    assert packed_bytes(initializers(proto)["W_quantized"]) == -(-rows * cols // 4)
    feeds = {"x": np.eye(rows, dtype=np.float32)}
    for optimize in (False, True):
        np.testing.assert_array_equal(
            run(proto, feeds, optimize), dequantized(solution, layer).astype(np.float32)
        )
    assert optimized_ops(proto, tmp_path) == ["MatMul"]
    assert TARGETS[target].lint(proto) == ()


def test_two_bits_that_no_kernel_reads_where_a_dequantize_linear_is_asked_for(tmp_path):
    proto, layer, solution, said = write(CASES["matmul_odd"], Grid(2), "ort", form="dq")
    assert said.form == "DequantizeLinear"
    assert "misreads" in said.note
    assert initializers(proto)["W_quantized"].data_type == TensorProto.INT4
    expected = run(
        with_weight(CASES["matmul_odd"].proto(), dequantized(solution, layer)), CASES["matmul"].feeds()
    )
    found = run(proto, CASES["matmul"].feeds(), True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


UNEVEN = {
    "matmul": Case(
        "g (float[N, 120] x) => (float[] y) { y = MatMul(x, W) }", "matmul", (120, 20), "MatMul", (3, 120)
    ),
    "conv": Case(
        "g (float[N, 16, 6, 6] x) => (float[] y) { y = Conv(x, W) }",
        "conv",
        (6, 16, 3, 3),
        "Conv",
        (1, 16, 6, 6),
    ),
}


@pytest.mark.parametrize("target", ["portable", "ort", "web", "openvino"])
@pytest.mark.parametrize("kind", UNEVEN)
def test_blocks_that_are_no_power_of_two_are_floats_once_loaded(kind, target):
    case = UNEVEN[kind]
    grid, note = TARGETS[target].grid(case.layer(), Recipe(block_size="32"), 4)
    assert grid.block_size == {"matmul": 30, "conv": 24}[kind]
    assert "does not divide" in note
    proto, layer, solution, said = write(case, grid, target)
    assert said.form == "Cast*scale"
    assert not list(TARGETS[target].lint(proto))
    expected = run(with_weight(case.proto(), dequantized(solution, layer)), case.feeds())
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(run(proto, case.feeds()), expected, rtol=1e-5, atol=atol)
