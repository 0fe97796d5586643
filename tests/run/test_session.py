"""Sessions: what they compute, and what they say when they cannot."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import model
from onnx import TensorProto, helper, numpy_helper

from comq_onnx.errors import ComqError
from comq_onnx.run import session as sessions
from comq_onnx.run.reason import reason
from comq_onnx.run.session import SessionOptions, open_session, outputs_on

ADD = """<ir_version: 8, opset_import: ["": 17]>
adder (float[N, 3] x, float[3] b) => (float[N, 3] y) { y = Add(x, b) }"""


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def weight_only(bits: int = 4) -> tuple[onnx.ModelProto, np.ndarray]:
    """A MatMul behind a blocked DequantizeLinear, and its dequantized weight."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (64, 16)).astype(ml_dtypes.int4)
    scale = rng.uniform(0.5, 1.5, (2, 16)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "weight_only",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(codes, "q"), numpy_helper.from_array(scale, "s")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    return model, codes.astype(np.float32) * np.repeat(scale, 32, axis=0)


def test_inputs_and_outputs_are_described():
    session = open_session(parse(ADD))
    assert [(s.name, s.dtype, s.shape) for s in session.inputs] == [
        ("x", np.float32, (None, 3)),
        ("b", np.float32, (3,)),
    ]
    assert session.outputs[0].name == "y"


def test_a_run_computes_what_is_asked_for():
    session = open_session(parse(ADD))
    x, b = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    assert np.array_equal(session.run({"x": x, "b": b, "unused": x})["y"], x + b)
    assert np.array_equal(session.run({"x": x.astype(np.float64), "b": b}, ["y"])["y"], x + b)
    assert session.run({"x": x, "b": b}, []) == {}
    batches = [{"x": x, "b": b}, {"x": 2 * x, "b": b}]
    assert [out["y"][0, 0] for out in outputs_on(session, batches)] == [1.0, 2.0]


def test_a_newer_ir_version_is_lowered_for_a_message_but_its_owner_keeps_it():
    model = parse(ADD)
    model.ir_version = 99
    assert open_session(model).outputs[0].name == "y"
    assert model.ir_version == 99


def test_a_large_message_goes_through_a_file(monkeypatch):
    monkeypatch.setattr(sessions, "IN_MEMORY_LIMIT", 1)
    model, weight = weight_only()
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    assert np.allclose(open_session(model).run({"x": x})["y"], x @ weight, atol=1e-3)


def test_exact_sessions_do_not_round_activations():
    model, weight = weight_only()
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    want = x @ weight

    def error(**options) -> float:
        got = open_session(model, SessionOptions(**options)).run({"x": x})["y"]
        return float(np.linalg.norm(got - want) / np.linalg.norm(want))

    assert error() < 1e-5
    assert error(optimize=False) < 1e-5
    assert error(fold_dq=True) < 1e-5
    assert error(exact=False) > 1e-4


def test_folding_and_optimising_are_seen_in_the_optimised_graph(tmp_path):
    model, _ = weight_only()
    kinds = {}
    for name, options in {"fused": {}, "folded": {"fold_dq": True}, "plain": {"optimize": False}}.items():
        path = tmp_path / f"{name}.onnx"
        open_session(model, SessionOptions(optimized_path=path, threads=1, **options))
        kinds[name] = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds["plain"] == ["DequantizeLinear", "MatMul"]
    assert kinds["fused"] == ["MatMulNBits"]
    assert "DequantizeLinear" not in kinds["folded"]
    assert "MatMulNBits" not in kinds["folded"]


def test_float_biases_stay_float_on_request():
    """Scales of 2**-12 multiply to what float16 has no normal number for."""
    text = """g (float16[1, 2, 4, 4] x) => (float16[1, 2, 4, 4] y) {
      q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z)
      w = DequantizeLinear<axis = 0>(c, t)
      y = Conv(a, w, b)
    }"""
    small = np.float16(2.0**-12)
    values = {"s": np.asarray(small), "z": np.zeros((), np.int8), "t": np.full(2, small)}
    values |= {"c": np.array([[3, -5], [7, 2]], np.int8).reshape(2, 2, 1, 1), "b": np.ones(2, np.float16)}
    proto = model(text, 21, 10, **values)
    fed = {"x": np.full((1, 2, 4, 4), 0.01, np.float32)}
    found = open_session(proto, SessionOptions(float_bias=True)).run(fed)["y"]
    code = np.rint(0.01 * 2**12)
    sums = np.array([-2, 9]) * code * 2.0**-24 + 1
    np.testing.assert_allclose(found[0, :, 0, 0], sums, rtol=1e-3)


def test_the_same_bits_on_every_run():
    model, _ = weight_only()
    x = np.random.default_rng(1).standard_normal((50, 64)).astype(np.float32)
    first, second = (open_session(model).run({"x": x})["y"] for _ in range(2))
    assert np.array_equal(first, second)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ComqError, match="the file does not exist"):
        open_session(tmp_path / "none.onnx")


def test_a_file_that_is_no_model_is_said(tmp_path):
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"junk")
    with pytest.raises(
        ComqError, match=r"^junk\.onnx: onnxruntime does not load the model: .*[^.]\.$"
    ) as caught:
        open_session(path)
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_an_unknown_operator_is_said():
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "x": 1]> g (float[2] a) => (float[2] y) { y = x.Nope(a) }'
    )
    with pytest.raises(ComqError, match=r"does not load the model.*Nope"):
        open_session(model)


def test_a_run_that_fails_names_inputs_and_shapes():
    session = open_session(parse(ADD))
    feeds = {"x": np.ones((2, 4), np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(ComqError, match=r"'x' float32\[2, 4\], 'b' float32\[3\]") as caught:
        session.run(feeds)
    assert "\n" not in str(caught.value)


def test_a_missing_feed_is_said():
    with pytest.raises(ComqError, match="no value is fed to 'b'"):
        open_session(parse(ADD)).run({"x": np.ones((1, 3), np.float32)})


def test_reasons_are_one_line_without_codes_and_source_paths():
    raw = (
        "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: "
        "/onnxruntime_src/onnxruntime/core/graph/x.cc:12 "
        "onnxruntime::Status onnxruntime::f(int) shape is wrong.\n"
    )
    assert reason(ValueError(raw)) == "shape is wrong"
    assert reason(ValueError("")) == "ValueError"
