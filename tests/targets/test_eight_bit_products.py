"""Transformer blocks with activations in 8 bits: one tensor that many read, and products of activations."""

import numpy as np
import pytest
from graphs import weight
from onnx import numpy_helper
from targets.storing import (
    check_runs,
    literal,
    net,
    outputs,
    rows,
    store,
)

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


def block(opset):
    weights = {name: weight(16, 16, seed=i) for i, name in enumerate("QKVO")}
    vectors = {name: weight(16, seed=i) for i, name in enumerate(("bq", "bk", "bv", "bo", "h"))}
    return net(BLOCK, "float[B, 5, 16] x", opset, s=np.ones(16, np.float32), **weights, **vectors)


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("opset", [17, 21])
def test_products_with_readers_apart_are_all_fused(opset, weights, tmp_path):
    bed = store(block(opset), rows(3, 5, 16), "portable", weights=weights)
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


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("target", ["ort", "openvino", "web"])
def test_products_that_share_their_codes_are_fused(target, opset, tmp_path):
    bed = store(block(opset), rows(3, 5, 16), target)
    ops = check_runs(bed, rows(3, 5, 16), tmp_path, limit=5e-3)
    assert sum(ops.count(name) for name in ("QGemm", "MatMulIntegerToFloat")) >= 4
    assert len([n for n in bed.proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "n"]) == 1


@pytest.mark.parametrize("opset", [17, 21])
def test_products_of_two_activations(opset, tmp_path):
    bed = store(block(opset), rows(3, 5, 16), "ort", products=True)
    ops = check_runs(bed, rows(3, 5, 16), tmp_path, limit=1e-2)
    assert "MatMul" not in ops
    assert bed.grids["p"].zero_point == 0


def test_such_a_product_is_parted_from_its_bias():
    """Where it is not, onnxruntime from 1.28 on may refuse to load it at opset 21."""
    feeds = rows(3, 5, 16)
    proto = net("h = MatMul(x, W) y = Add(h, b)", "float[B, 5, 16] x", 21, W=weight(16, 16), b=weight(16))
    bed = store(proto, feeds, "portable")
    assert bed.ops == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul", "Reshape", "Add"]
    np.testing.assert_allclose(
        outputs(bed.proto, feeds, True)[0], literal(bed, feeds)[0], rtol=1e-4, atol=1e-5
    )
