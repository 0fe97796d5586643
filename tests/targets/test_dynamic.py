"""Activations rounded on the fly: by the integers, and as onnxruntime fuses them."""

import numpy as np
import onnx
import pytest
from graphs import weight
from onnx import TensorProto
from targets.layer_cases import dequantized, solve_nearest
from targets.storing import deviation, net, one_layer, outputs, rows, store

from comq_onnx.evaluate.verify import check_codes
from comq_onnx.graph.io import load
from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid
from comq_onnx.records import Layer
from comq_onnx.targets.dynamic import dynamic_product
from comq_onnx.targets.piece import Piece

DYNAMIC = {"activations": "dynamic"}


def rounded(values):
    """What a DynamicQuantizeLinear makes of `values`, by its definition."""
    low, high = min(0, values.min()), max(0, values.max())
    scale = np.float32((high - low) / np.float32(255))
    zero = np.clip(np.rint(-low / scale), 0, 255)
    codes = np.clip(np.rint(values / scale) + zero, 0, 255)
    return ((codes - zero) * scale).astype(np.float32)


def fused(bed, feeds, folder):
    path = folder / "optimized.onnx"
    plain, found = outputs(bed.proto, feeds), outputs(bed.proto, feeds, True, path)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("target", ["ort", "web"])
@pytest.mark.parametrize("weights", ["int8", "int4", "int2"])
@pytest.mark.parametrize("op", ["MatMul", "Add", "Gemm"])
def test_one_kernel_rounds_and_multiplies(op, weights, target, tmp_path):
    bed, feeds, values = one_layer(op, target, DYNAMIC | {"weights": weights})
    solution, layer = next(iter(bed.solutions.values())), bed.plan.layers[0]
    expected = rounded(feeds["x"]) @ dequantized(solution, layer).astype(np.float32) + values.get("b", 0)
    np.testing.assert_allclose(outputs(bed.proto, feeds)[0], expected, rtol=1e-4, atol=1e-5)
    ops = fused(bed, feeds, tmp_path)
    assert "DynamicQuantizeMatMul" in ops
    assert not {"MatMul", "Gemm", "MatMulInteger", "MatMulIntegerToFloat"} & set(ops)
    assert bed.forms() == ["MatMulInteger"]
    kinds = {"int8": TensorProto.INT8, "int4": TensorProto.INT4, "int2": TensorProto.INT2}
    assert bed.constants()["W_quantized"].data_type == kinds[weights]
    assert [o.name for o in bed.proto.graph.output] == ["y"]
    assert check_codes(bed.proto, bed.plan.layers, bed.solutions).ok


def test_a_gemm_that_adds_a_matrix_adds_it_behind(tmp_path):
    bed, feeds, values = one_layer("Gemm", how=DYNAMIC, b=weight(5, 8))
    solution, layer = next(iter(bed.solutions.values())), bed.plan.layers[0]
    expected = rounded(feeds["x"]) @ dequantized(solution, layer).astype(np.float32) + values["b"]
    np.testing.assert_allclose(outputs(bed.proto, feeds)[0], expected, rtol=1e-4, atol=1e-5)
    assert "DynamicQuantizeMatMul" in fused(bed, feeds, tmp_path)


@pytest.mark.parametrize("head", ["float[B, 16] x", "float[B, 3, 16] x"])
@pytest.mark.parametrize("opset", [17, 21])
def test_layers_that_read_one_tensor_share_its_codes(opset, head, tmp_path):
    body = "a = Relu(x) h = MatMul(a, V) g = MatMul(a, W) k = Add(g, b) y = Add(h, k)"
    proto = net(body, head, opset, V=weight(16, 8), W=weight(16, 8, seed=5), b=weight(8))
    feeds = rows(4, 16) if "3" not in head else rows(2, 3, 16)
    bed = store(proto, feeds, "ort", **DYNAMIC)
    assert bed.ops.count("DynamicQuantizeLinear") == 1
    assert bed.ops.count("MatMulInteger") == 2
    codes = rounded(np.maximum(feeds["x"], 0))
    weights = [dequantized(bed.solutions[la.name], la).astype(np.float32) for la in bed.plan.layers]
    expected = codes @ weights[0] + codes @ weights[1] + weight(8)
    assert deviation(outputs(bed.proto, feeds)[0], expected) < 1e-5
    ops = fused(bed, feeds, tmp_path)
    assert not {"MatMul", "Gemm", "MatMulInteger"} & set(ops)
    assert check_codes(bed.proto, bed.plan.layers, bed.solutions).ok


def test_a_compensating_bias_is_added_in_float():
    bed, feeds, values = one_layer("MatMul", how=DYNAMIC)
    proto = net("y = MatMul(x, W)", "float[B, 16] x", W=values["W"])
    shifted = store(proto, feeds, "ort", bias=0.5, reduce_range=False, **DYNAMIC)
    np.testing.assert_allclose(
        outputs(shifted.proto, feeds)[0], outputs(bed.proto, feeds)[0] + np.float32(0.5), atol=1e-6
    )


def test_convolutions_are_written_as_without_activations():
    body = "c = Conv<kernel_shape = [3, 3]>(x, W) f = Flatten(c) y = Gemm(f, V)"
    proto = net(body, W=weight(8, 8, 3, 3), V=weight(512, 4))
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 8, 10, 10), np.float32)}
    bed = store(proto, feeds, "ort", **DYNAMIC)
    assert bed.forms() == ["Cast*scale", "MatMulInteger"]
    assert check_codes(bed.proto, bed.plan.layers, bed.solutions).ok


@pytest.mark.parametrize("grid", [Grid(8, False), Grid(8, True, "block", 16)], ids=str)
def test_the_kernel_takes_one_scale_per_channel_and_no_zero_point(grid):
    values = weight(64, 8)
    source = load(net("y = MatMul(x, W)", "float[B, 64] x", W=values))
    source.graph.nodes[0].name = "n"
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", (64, 8)), "float32")
    with pytest.raises(ValueError, match="one scale per channel"):
        dynamic_product(source, Piece(layer, set()), solve_nearest(values, layer, grid), 8, {})
