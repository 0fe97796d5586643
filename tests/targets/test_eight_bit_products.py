"""Transformer blocks with activations in 8 bits: one tensor that many read, and products of activations."""

import numpy as np
import pytest
from graphs import weight
from onnx import numpy_helper
from targets.storing import (
    check_runs,
    net,
    rows,
    store,
)

from comq_onnx.evaluate.verify import check_codes

BLOCK = """
  n = LayerNormalization(x, s, h)
  q0 = MatMul(n, Q) q = Add(q0, bq)
  k0 = MatMul(n, K) k = Add(k0, bk)
  v0 = MatMul(n, V) v = Add(v0, bv)
  kt = Transpose<perm = [0, 2, 1]>(k)
  w = MatMul(q, kt) p = Softmax(w) c = MatMul(p, v)
  o0 = MatMul(c, O) o = Add(o0, bo)
  y = Add(o, n)
"""


def block(opset, head="float[B, 5, 16] x"):
    weights = {name: weight(16, 16, seed=i) for i, name in enumerate("QKVO")}
    vectors = {name: weight(16, seed=i) for i, name in enumerate(("bq", "bk", "bv", "bo", "h"))}
    return net(BLOCK, head, opset, s=np.ones(16, np.float32), **weights, **vectors)


@pytest.mark.parametrize("head", ["float[B, 5, 16] x", "float[3, 5, 16] x"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("opset", [17, 21])
def test_products_with_readers_apart_are_all_fused(opset, weights, head, tmp_path):
    bed = store(block(opset, head), rows(3, 5, 16), "portable", weights=weights)
    ops = check_runs(bed, rows(3, 5, 16), tmp_path)
    assert ops.count("MatMulIntegerToFloat") == 4
    assert bed.forms() == ["int8 kernel"] * 4
    scales = [numpy_helper.to_array(t) for n, t in bed.constants().items() if n.startswith("n_scale")]
    assert len(scales) == 3
    assert sorted(np.float32(s) for s in scales) == [
        np.float32(bed.grids["n"].scale),
        np.nextafter(np.float32(bed.grids["n"].scale), np.float32(9)),
        np.nextafter(np.nextafter(np.float32(bed.grids["n"].scale), np.float32(9)), np.float32(9)),
    ]
    zeros = [numpy_helper.to_array(t) for n, t in bed.constants().items() if n.startswith("n_zero_point")]
    assert all(zero.dtype == np.int8 and zero == 0 for zero in zeros)


@pytest.mark.parametrize("head", ["float[B, 5, 16] x", "float[3, 5, 16] x"])
@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("target", ["ort", "openvino", "web"])
def test_products_that_share_their_codes_are_fused(target, opset, head, tmp_path):
    bed = store(block(opset, head), rows(3, 5, 16), target)
    ops = check_runs(bed, rows(3, 5, 16), tmp_path, limit=5e-3)
    assert sum(ops.count(name) for name in ("QGemm", "MatMulIntegerToFloat")) >= 4
    assert len([n for n in bed.proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "n"]) == 1


@pytest.mark.parametrize("opset", [17, 21])
def test_products_of_two_activations(opset, tmp_path):
    bed = store(block(opset), rows(3, 5, 16), "ort", products=True)
    ops = check_runs(bed, rows(3, 5, 16), tmp_path, limit=1e-2)
    assert "MatMul" not in ops
    assert bed.grids["p"].zero_point == 0


HEADS = ["float[B, 16] x", "float[5, 16] x", "float[B, S, 16] x", "float[2, 5, 16] x"]
PRODUCTS = [(op, head) for op in ("MatMul", "Add", "Gemm") for head in HEADS[: 2 if op == "Gemm" else 4]]


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize(("op", "head"), PRODUCTS)
def test_portable_products_of_every_rank_load_and_are_fused(op, head, opset, tmp_path):
    """onnxruntime from 1.28 on fails to load static shapes of rank 3 where the bias is not parted."""
    body = {
        "MatMul": "y = MatMul(x, W)",
        "Add": "h = MatMul(x, W) y = Add(h, b)",
        "Gemm": "y = Gemm(x, W, b)",
    }
    values = {"W": weight(16, 8, seed=2)} | ({} if op == "MatMul" else {"b": weight(8, seed=3)})
    feeds = rows(2, 5, 16) if head.count(",") > 1 else rows(5, 16)
    bed = store(net(body[op], head, opset, **values), feeds, "portable")
    ops = check_runs(bed, feeds, tmp_path)
    assert ops.count("MatMulIntegerToFloat") == 1
    assert not {"DequantizeLinear", "MatMul", "Gemm"} & set(ops)
    assert check_codes(bed.proto, bed.plan.layers, bed.solutions).ok


@pytest.mark.parametrize(
    "addend", [weight(5, 8), weight(1, 8), np.float32(0.5)], ids=["matrix", "row", "scalar"]
)
def test_a_portable_gemm_adds_whatever_it_adds(addend, tmp_path):
    feeds = rows(5, 16)
    proto = net("y = Gemm(x, W, b)", "float[B, 16] x", W=weight(16, 8), b=addend)
    bed = store(proto, feeds, "portable")
    assert "MatMulIntegerToFloat" in check_runs(bed, feeds, tmp_path)
    assert [o.name for o in bed.proto.graph.output] == ["y"]


def test_portable_gemms_that_share_an_input(tmp_path):
    body = "g = Gemm(x, W, b) h = Gemm(x, V, b) y = Add(g, h)"
    proto = net(body, "float[B, 16] x", W=weight(16, 8), V=weight(16, 8, seed=7), b=weight(8))
    bed = store(proto, rows(5, 16), "portable", bias=0.0)
    assert check_runs(bed, rows(5, 16), tmp_path).count("MatMulIntegerToFloat") == 2
