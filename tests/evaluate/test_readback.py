"""Weights are read back from files written by hand, by the definitions of their operators."""

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx import TensorProto, helper, numpy_helper
from targets.storing import CONV, SQUARE, images, net, one_layer, store

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.readback import WrittenFile
from comq_onnx.evaluate.verify import check_codes
from comq_onnx.graph.layout import layout_of
from comq_onnx.records import Layer

RNG = np.random.default_rng(0)
K, N = 6, 4
CODES = RNG.integers(-128, 128, (K, N)).astype(np.int8)
SCALE = RNG.random(N).astype(np.float32) + np.float32(0.1)
LAYER = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", (K, N)), "float32")


def read(proto, layer=LAYER):
    return WrittenFile(proto).weight(layer)


def named(proto, op):
    next(node for node in proto.graph.node if node.op_type == op).name = "n"
    return proto


DYNAMIC = """
g (float[B, 6] x) => (float[] y) {{
  a, sx, zx = DynamicQuantizeLinear(x)
  {made}
}}"""
PLAIN = "i = MatMulInteger(a, C, zx, zw) f = Cast<to = 1>(i) s = Mul(sx, sw) y = Mul(f, s)"
ZERO = np.zeros((), np.int8)


@pytest.mark.parametrize(
    "made",
    [
        PLAIN,
        PLAIN.replace("Mul(f, s)", "Mul(s, f)"),
        PLAIN.replace("Mul(sx, sw)", "Mul(sw, sx)"),
        "i = MatMulInteger(a, C, zx) f = Cast<to = 1>(i) s = Mul(sx, sw) y = Mul(f, s)",
        PLAIN.replace("Mul(f, s)", "Mul(f, s)").replace("y =", "h =") + " y = Add(h, b)",
    ],
)
def test_integer_products(made):
    text = DYNAMIC.format(made=made)
    proto = named(model(text, 17, C=CODES, sw=SCALE, zw=ZERO, b=weight(N)), "MatMulInteger")
    found = read(proto)
    np.testing.assert_array_equal(found.codes, CODES)
    np.testing.assert_array_equal(found.values, CODES * SCALE.astype(np.float64))
    assert found.initializer == "C"


def test_integer_products_of_codes_around_another_zero():
    text = DYNAMIC.format(made=PLAIN)
    codes = CODES.view(np.uint8)
    zero = np.array([1, 200, 128, 0], np.uint8)
    proto = named(model(text, 17, C=codes, sw=SCALE, zw=zero), "MatMulInteger")
    expected = (codes.astype(int) - zero) * SCALE.astype(np.float64)
    np.testing.assert_array_equal(read(proto).values, expected)


def test_integer_products_of_narrow_codes():
    codes = RNG.integers(-8, 8, (K, N))
    text = DYNAMIC.format(made="W8 = Cast<to = 3>(C) " + PLAIN.replace("(a, C", "(a, W8"))
    proto = named(model(text, 21, 10, sw=SCALE, zw=ZERO), "MatMulInteger")
    proto.graph.initializer.append(helper.make_tensor("C", TensorProto.INT4, (K, N), codes.reshape(-1)))
    np.testing.assert_array_equal(read(proto).codes, codes)
    np.testing.assert_array_equal(read(proto).values, codes * SCALE.astype(np.float64))


@pytest.mark.parametrize("made", ["y = MatMulInteger(a, C, zx)", "i = MatMulInteger(a, C, zx) y = Neg(i)"])
def test_sums_that_nothing_scales(made):
    proto = named(
        model(DYNAMIC.format(made=made).replace("float[] y", "int32[] y"), 17, C=CODES), "MatMulInteger"
    )
    with pytest.raises(ComqError, match="not scaled"):
        read(proto)


def nbits(bits, block, rows, zeros):
    """A MatMulNBits filled byte by byte, and the codes and values it stands for."""
    blocks, per_byte = -(-rows // block), 8 // bits
    codes = RNG.integers(0, 1 << bits, (rows, N))
    scale = RNG.random((N, blocks)).astype(np.float32) + np.float32(0.1)
    zero = RNG.integers(0, 1 << bits, (N, blocks)) if zeros else np.full((N, blocks), 1 << (bits - 1))
    packed = np.zeros((N, blocks, block * bits // 8), np.uint8)
    table = np.zeros((N, -(-blocks * bits // 8)), np.uint8)
    values = np.zeros((rows, N))
    for n in range(N):
        for k in range(rows):
            place = k % block
            packed[n, k // block, place // per_byte] |= codes[k, n] << (bits * (place % per_byte))
            values[k, n] = (int(codes[k, n]) - int(zero[n, k // block])) * float(scale[n, k // block])
        for b in range(blocks):
            table[n, b // per_byte] |= zero[n, b] << (bits * (b % per_byte))
    arrays = {"C": packed, "s": scale, **({"z": table} if zeros else {})}
    made = {"K": rows, "N": N, "bits": bits, "block_size": block}
    node = helper.make_node("MatMulNBits", ["x", *arrays], ["y"], name="n", domain="com.microsoft", **made)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    constants = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph), codes, values


@pytest.mark.parametrize("rows", [32, 48, 80, 20])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_products_of_low_bits(bits, zeros, rows):
    proto, codes, values = nbits(bits, 16, rows, zeros)
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", (rows, N)), "float32")
    found = read(proto, layer)
    np.testing.assert_array_equal(found.codes, codes - (0 if zeros else 1 << (bits - 1)))
    np.testing.assert_array_equal(found.values, values)
    assert found.initializer == "C"


@pytest.mark.parametrize(("name", "value"), [("bits", 3), ("block_size", 0), ("K", 0)])
def test_attributes_that_no_operator_has(name, value):
    proto, _, _ = nbits(4, 16, 32, False)
    next(a for a in proto.graph.node[0].attribute if a.name == name).i = value
    with pytest.raises(ComqError, match="its attributes are"):
        read(proto)


def test_a_linear_of_codes_that_were_cast():
    codes = RNG.integers(-2, 2, (K, N))
    text = """g (float[B, 6] x) => (float[] y) {
      c = Cast<to = 3>(C) w = DequantizeLinear<axis = 1>(c, s, z) y = MatMul(x, w)
    }"""
    proto = named(model(text, 25, 13, s=SCALE, z=np.zeros(N, np.int8)), "MatMul")
    proto.graph.initializer.append(helper.make_tensor("C", TensorProto.INT2, (K, N), codes.reshape(-1)))
    np.testing.assert_array_equal(read(proto).codes, codes)
    np.testing.assert_array_equal(read(proto).values, codes * SCALE.astype(np.float64))


HOW = [
    {"activations": "dynamic"},
    {"activations": "dynamic", "weights": "int4"},
    {"activations": "int8"},
    {"activations": "int8", "weights": "int4"},
    {"activations": "int8", "weights": "int2"},
    {"activations": "none", "weights": "int4", "matmulnbits": True},
    {"activations": "none", "weights": "int8", "matmulnbits": True, "symmetric": False},
]


def spoiled(proto, name, change):
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    tensor = next(t for t in made.graph.initializer if t.name == name)
    change(tensor)
    return made


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Add"])
def test_what_is_written_is_what_was_solved_and_one_other_code_or_scale_is_seen(op, how):
    bed, _, _ = one_layer(op, how=how)
    layers, solutions = bed.plan.layers, bed.solutions
    assert check_codes(bed.proto, layers, solutions).ok

    def flip(tensor):
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]

    def grow(tensor):
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[0] *= 1.001
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    assert "other codes" in check_codes(spoiled(bed.proto, "W_quantized", flip), layers, solutions).detail
    assert "other scales" in check_codes(spoiled(bed.proto, "W_scale", grow), layers, solutions).detail


@pytest.mark.parametrize("weights", ["int8", "int4", "int2"])
def test_convolutions_with_8_bit_activations(weights):
    proto = net(f"a = {CONV}(x, W1) y = {CONV}(a, W2)", W1=SQUARE["W1"], W2=SQUARE["W2"])
    bed = store(proto, images(2, 8, 10, 10), "ort", weights=weights)
    assert check_codes(bed.proto, bed.plan.layers, bed.solutions).ok
