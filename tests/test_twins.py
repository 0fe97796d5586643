"""Two ranges behind Softmax and Gelu: of a whole run."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import balanced, model, weight

from comq_onnx import Recipe, quantize
from comq_onnx.evaluate.report import Report

BLOCK = """g (float[B,12,32] x) => (float[B,12,32] y) {
  q = MatMul(x, w_q)
  k = Transpose<perm = [0, 2, 1]>(q)
  s = MatMul(x, k)
  p = Softmax(s)
  a = MatMul(p, q)
  r = Add(a, x)
  u = MatMul(r, w_up)
  g = Gelu(u)
  d = MatMul(g, w_down)
  y = Add(d, b_down)
}"""


@pytest.fixture(scope="module")
def block() -> onnx.ModelProto:
    made = model(
        BLOCK,
        opset=20,
        ir_version=9,
        w_q=balanced(weight(32, 32, seed=1)) * np.float32(2),
        w_up=balanced(weight(32, 64, seed=2)) * np.float32(3),
        w_down=balanced(weight(64, 32, seed=3)),
        b_down=weight(32, seed=4),
    )
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    return made


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(6).standard_t(5, (48, 12, 32)).astype(np.float32)


def made(block: onnx.ModelProto, samples: np.ndarray, path: Path, **recipe: object) -> Report:
    how = Recipe(weights="int8", activations="int8", **recipe)  # type: ignore[arg-type]
    return quantize(block, path, {"x": samples[:32]}, how)


def output(graph: onnx.ModelProto | Path, feeds: np.ndarray) -> np.ndarray:
    source = graph.SerializeToString() if isinstance(graph, onnx.ModelProto) else str(graph)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": feeds})[0])


@pytest.mark.parametrize(("target", "count"), [("ort", 2), ("portable", 1)])
def test_two_ranges_are_closer_to_float_and_are_told(block, samples, target, count, tmp_path):
    one, two = tmp_path / "one.onnx", tmp_path / "two.onnx"
    plain = made(block, samples, one, target=target)
    twins = made(block, samples, two, target=target, twin_ranges=True)
    wanted = output(block, samples[32:])
    errors = [float(np.square(output(path, samples[32:]) - wanted).sum()) for path in (one, two)]
    if target == "portable":  # elsewhere the product behind the Softmax is float without twin ranges
        assert errors[1] < errors[0]
    products = [sum(n.op_type == "MatMul" for n in onnx.load(path).graph.node) for path in (one, two)]
    assert products[1] == products[0] + count
    (said,) = [note for note in twins.notes if "--twin-ranges" in note]
    assert f"{count} of {count} values" in said
    assert "n_d (" in said
    assert ("n_a (" in said) == (target == "ort")
    assert not [note for note in plain.notes if "--twin-ranges" in note]
    assert [line.name for line in twins.lines if "two ranges" in line.reason] == ["n_d"]


def test_a_network_without_such_values_says_so(samples, tmp_path):
    text = "g (float[B,12,32] x) => (float[B,12,8] y) { r = Relu(x) y = MatMul(r, w) }"
    proto = model(text, w=weight(32, 8))
    report = made(proto, samples, tmp_path / "q.onnx", target="ort", twin_ranges=True)
    assert any("of 0 values" in note for note in report.notes)
