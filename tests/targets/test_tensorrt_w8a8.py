"""Files for TensorRT with int8 activations: stored at inputs and residuals, around zero; biases in float."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import balanced, model, weight
from onnx import TensorProto, numpy_helper
from targets.layer_cases import initializers

from comq_onnx import check, quantize
from comq_onnx.planning import plan
from comq_onnx.recipe import Recipe
from comq_onnx.targets import TARGETS

GLYPHS = Path(__file__).parents[2] / "samples" / "glyphs"
LAYERS = ("Conv", "Gemm", "MatMul")
ROUNDING = ("optimised = unoptimised, exact", "optimised = unoptimised, as deployed")
"""Checks that a file whose activations are rounded may fail without being unusable."""

CONVS = """g (float[B, 3, 32, 32] x) => (float[B, 10] y) {
  c0 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, k0, b0)
  r0 = Relu(c0)
  m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r0)
  c1 = Conv<pads = [1, 1, 1, 1]>(m, k1, b1)
  r1 = Relu(c1)
  c2 = Conv<pads = [1, 1, 1, 1]>(r1, k2, b2)
  j = Add(c2, m)
  r2 = Relu(j)
  d = Conv<pads = [1, 1, 1, 1], group = 16>(r2, kd, bd)
  rd = Clip(d, zero, six)
  p = GlobalAveragePool(rd)
  s1 = Conv(p, ks1, bs1)
  q1 = Relu(s1)
  s2 = Conv(q1, ks2, bs2)
  gate = Sigmoid(s2)
  e = Mul(rd, gate)
  c3 = Conv<strides = [2, 2]>(e, k3, b3)
  side = Conv<strides = [2, 2]>(r2, k4, b4)
  j3 = Add(c3, side)
  r3 = Relu(j3)
  a = GlobalAveragePool(r3)
  f = Flatten(a)
  y = Gemm<transB = 1>(f, wg, bg)
}"""
KERNELS = {"k0": (16, 3, 3, 3), "k1": (16, 16, 3, 3), "k2": (16, 16, 3, 3), "kd": (16, 1, 3, 3)}
KERNELS |= {"ks1": (4, 16, 1, 1), "ks2": (16, 4, 1, 1), "k3": (32, 16, 1, 1), "k4": (32, 16, 1, 1)}
BLOCK = """g (float[B, 12, 64] x) => (float[B, 12, 64] y) {
  n = LayerNormalization<axis = -1>(x, ones, zeros)
  q0 = MatMul(n, wq) q1 = Add(q0, bq) q2 = Reshape(q1, heads) q = Transpose<perm = [0, 2, 1, 3]>(q2)
  k0 = MatMul(n, wk) k1 = Add(k0, bk) k2 = Reshape(k1, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2)
  v0 = MatMul(n, wv) v1 = Add(v0, bv) v2 = Reshape(v1, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2)
  s0 = MatMul(q, k) s1 = Mul(s0, half) s = Softmax<axis = -1>(s1)
  o0 = MatMul(s, v) o1 = Transpose<perm = [0, 2, 1, 3]>(o0) o2 = Reshape(o1, whole)
  o3 = MatMul(o2, wo) o4 = Add(o3, bo) j = Add(o4, x)
  n2 = LayerNormalization<axis = -1>(j, ones, zeros)
  h0 = MatMul(n2, w1) h1 = Add(h0, b1) e0 = Div(h1, root) e1 = Erf(e0) e2 = Add(e1, one)
  e3 = Mul(h1, e2) h = Mul(e3, half)
  u0 = MatMul(h, w2) u1 = Add(u0, b2) y = Add(u1, j)
}"""


def named(proto: onnx.ModelProto) -> onnx.ModelProto:
    for node in proto.graph.node:
        node.name = f"make_{node.output[0]}"
    return proto


def convs() -> onnx.ModelProto:
    values = {}
    for seed, (name, shape) in enumerate(KERNELS.items()):
        fan = int(np.prod(shape[1:]))
        values[name] = weight(fan, shape[0], seed=seed).T.reshape(shape) * np.float32(1.4)
        values[f"b{name[1:]}"] = weight(shape[0], seed=50 + seed) * np.float32(0.2)
    values |= {"wg": weight(32, 10, seed=70).T.copy(), "bg": weight(10, seed=71)}
    values |= {"zero": np.float32(0), "six": np.float32(6)}
    return named(model(CONVS, **{name: np.asarray(value) for name, value in values.items()}))


def block() -> onnx.ModelProto:
    values = {f"w{name}": balanced(weight(64, 64, seed=i)) for i, name in enumerate("qkvo")}
    values |= {f"b{name}": weight(64, seed=10 + i) for i, name in enumerate("qkvo")}
    values |= {"w1": balanced(weight(64, 128, seed=20)), "b1": weight(128, seed=21)}
    values |= {"w2": balanced(weight(128, 64, seed=22)), "b2": weight(64, seed=23)}
    values |= {"ones": np.ones(64, np.float32), "zeros": np.zeros(64, np.float32)}
    values |= {"heads": np.array([0, 0, 4, 16]), "whole": np.array([0, 0, 64])}
    values |= {"half": np.array(0.5, np.float32), "one": np.array(1, np.float32)}
    return named(model(BLOCK, **values, root=np.array(2**0.5, np.float32)))


def samples(*shape: int) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(7).standard_normal((24, *shape))
    return {"x": (np.cumsum(noise, axis=-1) / 3).astype(np.float32)}


NETS = {"convs": (convs, (3, 32, 32)), "block": (block, (12, 64))}
INT8 = {"activations": "int8", "weights": "int8"}
OPTIONS = [
    {},
    {"activations": "int8"},
    INT8,
    INT8 | {"high_precision_dtype": "fp32"},
    INT8 | {"solver": "rtn"},
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Makes a file once; the float model, the file and the report."""
    made: dict[str, tuple] = {}

    def make(net: str, options: dict[str, str]) -> tuple:
        key = f"{net} {options}"
        if key not in made:
            build, shape = NETS[net]
            path = tmp_path_factory.mktemp("trt") / "m.onnx"
            report = quantize(build(), path, samples(*shape), Recipe(target="tensorrt", **options))
            made[key] = build(), onnx.load(path), report
        return made[key]

    return make


def pairs(proto: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Each QuantizeLinear with each DequantizeLinear behind it."""
    quantizers = {n.output[0]: n for n in proto.graph.node if n.op_type == "QuantizeLinear"}
    restorers = [n for n in proto.graph.node if n.op_type == "DequantizeLinear"]
    return [(quantizers[n.input[0]], n) for n in restorers if n.input[0] in quantizers]


def readers(proto: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if name in node.input]


def maker(proto: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    return next((node for node in proto.graph.node if name in node.output), None)


def behind_casts(proto: onnx.ModelProto, name: str) -> str:
    while (node := maker(proto, name)) is not None and node.op_type == "Cast":
        name = node.input[0]
    return name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("net", NETS)
def test_checks_pass_and_no_rule_is_broken(written, net, options):
    _, proto, report = written(net, options)
    failed = [c for c in report.verification.checks if not c.ok]
    assert not [c for c in failed if c.fatal or c.name not in ROUNDING]
    allowed = {"TRT-W09"} if options.get("high_precision_dtype") == "fp32" else set()  # what was asked for
    assert {finding.rule for finding in check(proto, "tensorrt")} <= allowed
    opset = next(o.version for o in proto.opset_import if not o.domain)
    assert (opset, proto.ir_version) == ((19, 9) if options.get("weights") == "int8" else (21, 10))
    (fidelity,) = report.verification.fidelity
    assert fidelity.sqnr_db > (25 if options.get("weights") == "int8" else 10)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("net", NETS)
def test_activations_are_int8_around_zero_in_the_type_of_the_graph(written, net, options):
    _, proto, _ = written(net, options)
    stored, found = initializers(proto), pairs(proto)
    wide = options.get("high_precision_dtype") == "fp32"
    assert found or (net, options) == ("block", {})  # products of a transformer are int4 by default
    for quantizer, restorer in found:
        scale, zero = stored[quantizer.input[1]], stored[quantizer.input[2]]
        assert list(quantizer.input[1:]) == list(restorer.input[1:])
        assert (zero.data_type, numpy_helper.to_array(zero).tolist()) == (TensorProto.INT8, 0)
        assert scale.data_type == (TensorProto.FLOAT if wide else TensorProto.FLOAT16)
        value = float(numpy_helper.to_array(scale))
        assert 2.0**-14 <= value < 60000
        assert value == float(np.float16(value)) or wide
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            assert stored[node.input[0]].data_type in (TensorProto.INT8, TensorProto.INT4)  # no int32 bias


@pytest.mark.parametrize("options", OPTIONS[1:4], ids=str)
@pytest.mark.parametrize("net", NETS)
def test_what_is_stored_is_read_by_layers_and_residual_sums_alone(written, net, options):
    _, proto, report = written(net, options)
    spared = {line.name for line in report.kept if "of the error" in line.reason}
    outputs = {output.name for output in proto.graph.output}
    for _, restorer in pairs(proto):
        assert restorer.output[0] not in outputs
        for reader in readers(proto, restorer.output[0]):
            assert reader.op_type in LAYERS or reader.name in ("make_j", "make_j3")
    for node in proto.graph.node:
        left = node.name in spared or node.name.startswith(("make_s1", "make_s2"))
        if node.op_type in LAYERS and not left:
            made = [maker(proto, name) for name in node.input[:2]]
            assert all(m is not None and m.op_type == "DequantizeLinear" for m in made), node.name


def test_of_a_residual_sum_the_other_input_is_stored(written):
    _, proto, _ = written("convs", INT8)
    for name, fused, other in (("make_j", "c2", "m"), ("make_j3", "side", "c3")):
        (add,) = (node for node in proto.graph.node if node.name == name)
        makers = {m.op_type: m for m in (maker(proto, n) for n in add.input) if m is not None}
        assert set(makers) == {"Conv", "DequantizeLinear"}
        assert makers["Conv"].output[0] == fused
        quantizer = maker(proto, makers["DequantizeLinear"].input[0])
        assert quantizer is not None
        assert quantizer.input[0] == other
    for relu in ("make_r0", "make_r1", "make_r2", "make_r3"):  # nothing between it and what it is fused with
        (node,) = (n for n in proto.graph.node if n.name == relu)
        before = maker(proto, node.input[0])
        assert before is not None
        assert before.op_type in ("Conv", "Add")


def test_products_of_activations_have_both_inputs_stored(written):
    _, proto, _ = written("block", INT8)
    for name in ("make_s0", "make_o0"):
        (node,) = (n for n in proto.graph.node if n.name == name)
        assert (
            sum(
                quantizer.op_type == "QuantizeLinear"
                for quantizer, r in pairs(proto)
                if r.output[0] in node.input
            )
            == 2
        )
    left_float = {"LayerNormalization", "Softmax", "Erf"}
    assert not [r for _, d in pairs(proto) for r in readers(proto, d.output[0]) if r.op_type in left_float]


@pytest.mark.parametrize(("net", "options"), [("convs", {}), ("convs", INT8), ("block", INT8)], ids=str)
def test_the_compensating_bias_is_in_the_float_bias(written, net, options):
    before, proto, report = written(net, options)
    old, new = initializers(before), initializers(proto)
    sums = [sum(n.op_type == "Add" for n in p.graph.node) for p in (before, proto)]
    assert sums[0] == sums[1]
    biases = {n.name: n.input[2] for n in before.graph.node if n.op_type in ("Conv", "Gemm")}
    biases |= {
        f"make_{n.input[0]}": n.input[1]
        for n in before.graph.node
        if n.op_type == "Add" and n.input[1] in old
    }
    for line in report.quantized:
        if line.name not in biases:
            continue
        node = next(n for n in proto.graph.node if n.name == line.name)
        place = node if node.op_type != "MatMul" else readers(proto, node.output[0])[0]
        name = next(n for n in place.input if n in new and n.startswith(biases[line.name]))
        assert new[name].data_type == TensorProto.FLOAT16
        shift = numpy_helper.to_array(new[name]).astype(np.float64) - numpy_helper.to_array(
            old[biases[line.name]]
        )
        assert np.abs(shift).max() > 1e-4, line.name


def test_one_position_is_left_in_float_and_says_why(written):
    _, _, report = written("convs", INT8)
    reasons = {line.name: line.reason for line in report.kept if "of the error" not in line.reason}
    assert set(reasons) == {"make_s1", "make_s2"}
    assert (
        reasons["make_s1"]
        == "it computes one position: nothing to gain, and TensorRT has no int4 Conv: stays fp16"
    )


def test_without_samples_convolutions_stay_float_and_say_why(tmp_path):
    text = "g (float[1, 3, 8, 8] x) => (float[1, 64] y) { c = Conv(x, k) f = Flatten(c) y = MatMul(f, w) }"
    net = named(model(text, k=weight(16, 3, 3, 3), w=weight(16 * 36, 64)))
    report = quantize(net, tmp_path / "m.onnx", None, Recipe(target="tensorrt"))
    why = "TensorRT has no int4 Conv; give samples, or --activations int8: stays fp16"
    assert {line.name: (line.form, line.reason) for line in report.lines if line.op == "Conv"} == {
        "make_c": ("", why)
    }
    assert [line.form for line in report.quantized] == ["DequantizeLinear"]
    assert pairs(onnx.load(tmp_path / "m.onnx")) == []
    assert plan(net, Recipe(target="tensorrt"), given=True).placement.layers == {"make_c"}


def test_int8_weights_beside_float_activations_are_not_written():
    """A product with the weight on the left has no 8-bit activation, and so no 8-bit weight."""
    text = "g (float[64, 64] x) => (float[64, 64] y) { h = MatMul(u, x) y = MatMul(h, w) }"
    net = named(model(text, u=weight(64, 64), w=weight(64, 64, seed=1)))
    made = plan(net, Recipe(target="tensorrt", **INT8))
    assert [layer.name for layer in made.layers] == ["make_y"]
    layer = made.layers[0]
    ends = Recipe(target="tensorrt", activations="int8", first_last="int8")
    grid, note = TARGETS["tensorrt"].grid(layer, ends, 8)
    assert (grid.bits, note) == (4, "TensorRT has 8-bit weights beside 8-bit activations only: int4")


@pytest.mark.parametrize("options", [{}, INT8], ids=str)
def test_a_real_model_keeps_the_rules(tmp_path, options):
    recipe = Recipe(target="tensorrt", solver="rtn", calibration_samples=16, **options)
    report = quantize(GLYPHS / "glyphs.onnx", tmp_path / "m.onnx", GLYPHS / "calibration.npz", recipe)
    assert check(tmp_path / "m.onnx", "tensorrt") == ()
    assert {c.name for c in report.verification.checks if not c.ok} <= set(ROUNDING)
    forms = {line.form for line in report.quantized}
    assert forms == {"int8 kernel"}
