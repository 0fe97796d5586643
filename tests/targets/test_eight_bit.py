"""Files with activations stored in 8 bits: by the integers, by definition, and as onnxruntime fuses them."""

import numpy as np
import onnx
import pytest
from graphs import balanced, model, weight
from onnx import TensorProto, numpy_helper
from targets.layer_cases import dequantized, shaped_model, solve_nearest
from targets.storing import (
    BIASES,
    CONV,
    INT8,
    SQUARE,
    UINT8,
    check_runs,
    deviation,
    images,
    int8_recipe,
    literal,
    net,
    one_layer,
    outputs,
    rows,
    store,
    through,
)

from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid
from comq_onnx.records import Layer, Placed, ValueGrid
from comq_onnx.targets import TARGETS
from comq_onnx.targets.eight_bit import (
    eight_bit_weight,
)
from comq_onnx.targets.piece import Piece
from comq_onnx.targets.placement import Placement, Stored

FLOATS = {"Conv", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "FusedGemm"}


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Add"])
@pytest.mark.parametrize("weights", ["int8", "int4", "int2"])
def test_the_file_computes_sums_of_products_of_integers(op, weights):
    bed, feeds, values = one_layer(op, how={"weights": weights})
    solution, grid = next(iter(bed.solutions.values())), bed.grids["x"]
    codes = np.clip(np.rint(feeds["x"] / np.float32(grid.scale)) + grid.zero_point, 0, 255).astype(np.int64)
    sums = (codes - grid.zero_point) @ solution.codes[0].astype(np.int64)
    step = np.float32(grid.scale) * solution.scale[0, 0].astype(np.float32)
    if "b" in values:
        sums = sums + np.rint(values["b"].astype(np.float64) / step).astype(np.int64)
    np.testing.assert_allclose(outputs(bed.proto, feeds)[0], sums * step, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [1e3, -1e3, 0.5, -0.5, 1.5, 2.5])
def test_values_outside_saturate_and_ties_go_to_even(value):
    bed, feeds, _ = one_layer("MatMul")
    grid = bed.grids["x"]
    outside = {"x": np.full_like(feeds["x"], np.float32(value) * (1 if abs(value) > 9 else grid.scale))}
    np.testing.assert_allclose(outputs(bed.proto, outside)[0], literal(bed, outside)[0], rtol=1e-5)


def test_the_law_of_the_oracle_by_hand():
    grid = ValueGrid(0.5, 10, UINT8)
    found = through(np.array([-99.0, -0.25, 0.25, 0.75, 199.0], np.float32), grid)
    np.testing.assert_array_equal(found, [-5.0, 0.0, 0.0, 1.0, 122.5])
    signed = through(np.array([-99.0, 99.0], np.float32), ValueGrid(0.5, 0, INT8))
    np.testing.assert_array_equal(signed, [-64.0, 63.5])


@pytest.mark.parametrize("target", ["ort", "openvino", "web"])
@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(
    ("op", "fused"), [("MatMul", "MatMulIntegerToFloat"), ("Gemm", "QGemm"), ("Add", "QGemm")]
)
def test_onnxruntime_fuses_products(op, fused, opset, target, tmp_path):
    bed, feeds, _ = one_layer(op, target)
    ops = check_runs(bed, feeds, tmp_path)
    assert fused in ops
    assert not FLOATS & set(ops)
    assert bed.forms() == ["int8 kernel"]


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Add"])
@pytest.mark.parametrize(("weights", "kind"), [("int4", TensorProto.INT4), ("int2", TensorProto.INT2)])
def test_codes_are_stored_narrow_and_computed_in_8_bits(op, weights, kind, tmp_path):
    bed, feeds, _ = one_layer(op, how={"weights": weights})
    codes = bed.constants()["W_quantized"]
    assert codes.data_type == kind
    assert len(codes.raw_data) == 16 * 8 * int(weights[-1]) // 8
    linear = next(n for n in bed.proto.graph.node if "W_DequantizeLinear" in n.name)
    assert bed.maker(linear.input[0]).op_type == "Cast"
    ops = check_runs(bed, feeds, tmp_path)
    assert {"MatMulIntegerToFloat", "QGemm"} & set(ops)
    assert "DequantizeLinear" not in ops


def test_three_bit_codes_lie_in_four_and_two_bit_ones_where_they_are_not_packed():
    assert (
        one_layer("Gemm", how={"weights": "int3"})[0].constants()["W_quantized"].data_type == TensorProto.INT4
    )
    bed = one_layer("Gemm", "openvino", {"weights": "int2"})[0]
    assert bed.constants()["W_quantized"].data_type == TensorProto.INT4


def test_an_8_bit_weight_has_a_zero_point_of_zeros():
    bed = one_layer("Gemm")[0]
    zero = numpy_helper.to_array(bed.constants()["W_zero_point"])
    np.testing.assert_array_equal(zero, np.zeros(8, np.int8))


RESIDUAL = f"""
  a = {CONV}(x, W1, b1) r = Relu(a)
  c = {CONV}(r, W2, b2) d = {CONV}(r, W3)
  s = Add(c, d) t = Relu(s)
  p = GlobalAveragePool(t) f = Flatten(p) y = Gemm(f, G, g)
"""


@pytest.mark.parametrize("weights", ["int8", "int4", "int2"])
@pytest.mark.parametrize("opset", [17, 21])
def test_a_residual_net_is_fused_from_end_to_end(opset, weights, tmp_path):
    proto = net(RESIDUAL, opset=opset, **SQUARE, **BIASES, G=weight(8, 4), g=weight(4))
    bed = store(proto, images(2, 8, 10, 10), "ort", weights=weights)
    ops = check_runs(bed, images(2, 8, 10, 10), tmp_path, limit=1e-2)
    assert ops.count("QLinearConv") == 3
    assert {"QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} <= set(ops)
    assert "Relu" not in ops
    assert not FLOATS & set(ops)


CLIPPED = """
  d = Conv<group = 8, kernel_shape = [3, 3]>(x, D, b1) e = Clip(d, zero, six)
  p = Conv<kernel_shape = [1, 1]>(e, P, b2) y = Clip(p, zero, six)
"""
ENDS = {"zero": np.float32(0), "six": np.float32(6)}
SEPARABLE = {"D": 4 * weight(8, 1, 3, 3), "P": 4 * weight(8, 8, 1, 1), **ENDS}


def test_a_clip_is_removed_where_the_grid_ends_below_it(tmp_path):
    proto = net(CLIPPED, **SEPARABLE, b1=BIASES["b1"], b2=BIASES["b2"])
    bed, feeds = store(proto, images(2, 8, 10, 10), "ort"), images(2, 8, 10, 10)
    ops = check_runs(bed, feeds, tmp_path)
    assert ops.count("QLinearConv") == 2
    assert "Clip" not in ops
    for grid in (bed.grids["e"], bed.grids["y"]):
        assert grid.zero_point == 0
        assert np.float32(grid.scale) * np.float32(255) <= 6


def test_a_clip_stays_where_the_grid_ends_above_it(tmp_path):
    """Why limits are told to whoever chooses grids."""
    proto = net(CLIPPED, **SEPARABLE, b1=BIASES["b1"], b2=BIASES["b2"])
    feeds = images(2, 8, 10, 10)
    bed = store(proto, feeds, "ort")
    above = {
        n: ValueGrid(float(np.float32(g.scale * 1.01)), 0, UINT8) for n, g in bed.grids.items() if n != "x"
    }
    source = load(bed.plan.prepared)
    stored = Stored(bed.plan.placement, bed.grids | above)
    TARGETS["ort"].rewrite(source, bed.plan.layers, bed.solutions, int8_recipe(), stored)
    path = tmp_path / "above.onnx"
    outputs(to_proto(source), feeds, True, path)
    ops = [node.op_type for node in onnx.load(path).graph.node]
    assert ops.count("FusedConv") == 2
    assert "QLinearConv" not in ops


def test_values_that_are_moved_share_a_grid_and_stay_codes(tmp_path):
    body = f"""
      a = {CONV}(x, W1) b = {CONV}(x, W2)
      m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
      n = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
      c = Concat<axis = 1>(m, n) f = Reshape(c, shape) y = MatMul(f, V)
    """
    shape = np.array([0, 400], np.int64)
    proto = net(body, W1=SQUARE["W1"], W2=3 * SQUARE["W2"], shape=shape, V=weight(400, 4))
    bed = store(proto, images(2, 8, 10, 10), "ort")
    assert len({bed.grids[name] for name in "abmncf"}) == 1
    ops = check_runs(bed, images(2, 8, 10, 10), tmp_path)
    assert sum(ops.count(name) for name in ("MaxPool", "NhwcMaxPool")) == 2
    assert ops.count("QuantizeLinear") == 1
    assert "DequantizeLinear" not in ops


def test_silu_reads_what_is_stored(tmp_path):
    body = f"a = {CONV}(x, W1, b1) g = Sigmoid(a) s = Mul(a, g) y = {CONV}(s, W2)"
    proto = net(body, W1=SQUARE["W1"], W2=SQUARE["W2"], b1=BIASES["b1"])
    bed = store(proto, images(2, 8, 10, 10), "ort")
    assert check_runs(bed, images(2, 8, 10, 10), tmp_path, limit=1e-2).count("QLinearConv") == 2


def test_an_output_of_the_graph_keeps_its_name_and_is_what_is_stored(tmp_path):
    proto = shaped_model(
        f"g (float[B, 8, 10, 10] x) => (float[] a, float[] y) {{ a = {CONV}(x, W1) y = {CONV}(a, W2) }}",
        17,
        W1=SQUARE["W1"],
        W2=SQUARE["W2"],
    )
    bed = store(proto, images(2, 8, 10, 10), "ort")
    assert [o.name for o in bed.proto.graph.output] == ["a", "y"]
    assert {bed.maker(name).op_type for name in "ay"} == {"DequantizeLinear"}
    check_runs(bed, images(2, 8, 10, 10), tmp_path)


def test_a_tensor_read_inside_a_branch_is_stored_outside_it():
    text = f"""
    g (bool c, float[B, 8, 10, 10] x) => (float[B, 8, 10, 10] y) {{
      a = {CONV}(x, W1)
      y = If (c) <then_branch = t () => (float[B, 8, 10, 10] p) {{ p = Exp(a) }},
                  else_branch = e () => (float[B, 8, 10, 10] q) {{ q = Neg(a) }}>
    }}"""
    proto, feeds = model(text, 17, W1=SQUARE["W1"]), images(2, 8, 10, 10)
    found = load(proto)
    layer = Layer("n", "Conv", "W1", "x", "a", layout_of("conv", (8, 8, 3, 3)), "float32")
    found.graph.nodes[0].name = "n"
    grids = {"x": ValueGrid(0.04, 128, UINT8), "a": ValueGrid(0.04, 120, UINT8)}
    values = (Placed("x", ("n",), "x"), Placed("a", None, "a"))
    stored = Stored(Placement(values, frozenset(("n",))), grids)
    solution = solve_nearest(SQUARE["W1"], layer, Grid(8))
    TARGETS["ort"].rewrite(found, [layer], {"n": solution}, int8_recipe(), stored)
    result = to_proto(found)
    onnx.checker.check_model(result, full_check=True)
    values = dequantized(solution, layer).astype(np.float32)
    made = {"x": through(feeds["x"], grids["x"])}
    inner = through(outputs(net(f"y = {CONV}(x, W)", W=values), made)[0], grids["a"])
    for flag, expected in ((True, np.exp(inner)), (False, -inner)):
        given = feeds | {"c": np.array(flag)}
        for optimize in (False, True):
            assert deviation(outputs(result, given, optimize)[0], expected) < 2e-3


@pytest.mark.parametrize("grid", [Grid(8, False), Grid(8, True, "block", 16)], ids=str)
def test_8_bit_kernels_take_one_scale_per_channel_and_no_zero_point(grid):
    values = weight(64, 8)
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", (64, 8)), "float32")
    with pytest.raises(ValueError, match="one scale per channel"):
        eight_bit_weight(Piece(layer, set()), solve_nearest(values, layer, grid), 8)


@pytest.mark.parametrize(
    ("op", "shape", "group", "head"),
    [
        ("ConvTranspose", (8, 4, 2, 2), 1, "float[B, 8, 10, 10] x"),
        ("Conv", (6, 4, 2, 2), 2, "float[B, 8, 10, 10] x"),
        ("Conv", (6, 8, 3), 1, "float[B, 8, 12] x"),
        ("Conv", (4, 8, 2, 2, 2), 1, "float[B, 8, 5, 5, 5] x"),
    ],
)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_other_convolutions_compute_what_they_should(op, shape, group, head, weights, tmp_path):
    channels = shape[1] if op == "ConvTranspose" else shape[0]
    body = f"y = {op}<kernel_shape = {list(shape[2:])}, group = {group}>(x, W, b)"
    feeds = images(2, *(int(size) for size in head.strip("float[] x").split(", ")[1:]))
    kernel = balanced(weight(*shape), axis=1)  # exact with codes of all 8 bits
    how = {"size_first": True, "weights": weights, "reduce_range": False}
    bed = store(net(body, head, W=kernel, b=weight(channels)), feeds, "ort", **how)
    assert bed.forms() == ["int8 kernel"]
    # The bias is rounded to steps of the products, coarse with few bits: some outputs differ by one step.
    ops = check_runs(bed, feeds, tmp_path, limit=5e-3)
    assert ("QLinearConv" in ops) == (op == "Conv")


def test_an_output_that_a_layer_reads_stays_float(tmp_path):
    text = "g (float[B, 16] x) => (float[] r, float[] y) { r = Relu(x) y = MatMul(r, W) }"
    bed, feeds = store(shaped_model(text, 17, W=weight(16, 8)), rows(5, 16), "ort"), rows(5, 16)
    check_runs(bed, feeds, tmp_path)
    np.testing.assert_array_equal(outputs(bed.proto, feeds)[0], np.maximum(feeds["x"], 0))


def test_names_already_taken_are_not_reused(tmp_path):
    body = (
        "x_scale = Exp(x) W_quantized = Mul(x_scale, x_zero_point) m = MatMul(x, W) y = Add(m, W_quantized)"
    )
    proto = net(body, "float[B, 8] x", W=weight(8, 8), x_zero_point=weight(8))
    proto.graph.node[0].name = "W_DequantizeLinear"
    bed = store(proto, rows(5, 8), "ort")
    check_runs(bed, rows(5, 8), tmp_path)
    names = [node.name for node in bed.proto.graph.node] + [t.name for t in bed.proto.graph.initializer]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("target", ["ort", "openvino", "web"])
def test_every_target_computes_by_definition(target, tmp_path):
    proto = net(RESIDUAL, **SQUARE, **BIASES, G=weight(8, 4), g=weight(4))
    bed = store(proto, images(2, 8, 10, 10), target, weights="int4")
    check_runs(bed, images(2, 8, 10, 10), tmp_path)
