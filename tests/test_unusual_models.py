"""Shapes, opsets and types that few models have, through a whole run: found by ONNX's own test cases."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import model, weight

from comq_onnx import Recipe, quantize
from comq_onnx.run.widen import widen


def outputs(source: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(widen(source).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def distance(made, tmp_path, *shape: int, **fields) -> float:
    """Relative distance between the outputs of a model and of its file, on a sample it has not seen."""
    given, other = ({"x": weight(*shape, 1, seed=seed)[..., 0]} for seed in (1, 2))
    quantize(made, tmp_path / "q.onnx", [given], Recipe(weights="int8", **fields))
    truth, found = outputs(made, other), outputs(onnx.load(tmp_path / "q.onnx"), other)
    assert found.shape == truth.shape
    return float(np.linalg.norm(truth - found) / np.linalg.norm(truth))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        # The leading axis of x is summed over, however much it looks like one of samples.
        ("g (float[8, 5] x) => (float[6, 5] y) { y = MatMul(W, x) }", (6, 8)),
        ("g (float[8] x) => (float[6] y) { y = MatMul(W, x) }", (6, 8)),
        ("g (float[8] x) => (float[6] y) { y = MatMul(x, W) }", (8, 6)),
        # A vector leaves no axis to put beside the weight's own.
        ("g (float[8] x) => (float[3, 6] y) { y = MatMul(x, W) }", (3, 8, 6)),
        ("g (float[8] x) => (float[3, 6] y) { y = MatMul(W, x) }", (3, 6, 8)),
        ("g (float[8] x) => (float[2, 3, 6] y) { y = MatMul(W, x) }", (2, 3, 6, 8)),
    ],
)
@pytest.mark.parametrize("inputs", ["quantized", "float"])
def test_products_with_vectors_and_from_the_left(text, shapes, inputs, tmp_path):
    made = model(text, W=weight(*shapes))
    dims = made.graph.input[0].type.tensor_type.shape.dim
    assert distance(made, tmp_path, *(d.dim_value for d in dims), target="ort", inputs=inputs) < 1e-2


OLD = """g (float[1, 3, 6, 6] x) => (float[1, 4, 1, 1] y) {
  c = Conv<kernel_shape = [3, 3]>(x, W)
  d, mask = Dropout<is_test = 1>(c)
  r = Relu(d)
  y = GlobalAveragePool(r)
}"""


@pytest.mark.parametrize("target", ["portable", "ort", "fakequant"])
def test_an_opset_of_2017(target, tmp_path):
    made = model(OLD.replace("d, mask", "d").replace("<is_test = 1>", ""), 1, 4, W=weight(4, 3, 3, 3))
    made.graph.node[1].attribute.append(onnx.helper.make_attribute("is_test", 1))
    made.opset_import[0].version = 6
    assert distance(made, tmp_path, 1, 3, 6, 6, target=target) < 1e-2
    assert onnx.load(tmp_path / "q.onnx").opset_import[0].version >= 7


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 26, reason="this onnx does not know opset 26")
def test_the_newest_opset(tmp_path):
    made = model("g (float[N, 16] x) => (float[N, 8] y) { y = MatMul(x, W) }", 26, 13, W=weight(16, 8))
    assert distance(made, tmp_path, 4, 16) < 1e-2
    assert onnx.load(tmp_path / "q.onnx").opset_import[0].version == 26


def test_a_bfloat16_convolution_at_an_opset_without_one(tmp_path):
    """torch exports it, GPUs run it, the ONNX checker rejects the float model too."""
    import ml_dtypes

    text = "g (bfloat16[1, 3, 8, 8] x) => (bfloat16[1, 4, 6, 6] y) { y = Conv<kernel_shape = [3, 3]>(x, W) }"
    made = model(text, 17, 8, W=weight(4, 3, 3, 3).astype(ml_dtypes.bfloat16))
    assert distance(made, tmp_path, 1, 3, 8, 8) < 1e-2
    report = quantize(made, tmp_path / "q.onnx", [{"x": weight(1, 3, 8, 8)}], Recipe(weights="int8"))
    check = report.verification.checks[0]
    assert (check.name, check.ok, check.fatal) == ("valid ONNX", False, False)
    assert "the float model either" in check.detail
    assert report.blemishes


ADDED = "g (float[4, 16] x) => (float[4, 8] y) { h = MatMul(x, V) y = Gemm(h, W, C) }"


def test_a_gemm_that_adds_a_matrix_keeps_float_activations(tmp_path):
    made = model(ADDED, V=weight(16, 16), W=weight(16, 8), C=weight(4, 8, seed=3))
    data = [{"x": weight(4, 16, seed=seed)} for seed in range(8)]
    report = quantize(made, tmp_path / "q.onnx", data, weights="int8", activations="int8", target="ort")
    assert "does not fuse a Gemm that adds a matrix" in report.lines[1].activations
    assert report.lines[0].activations == "8-bit"
    assert report.verification.ok


SEQUENCE = """g (float[1, 6, 16] x) => (seq(float[1, 3, 8]) parts) {
  three = Constant<value = int64 {3}>()
  y = MatMul(x, W)
  parts = SplitToSequence<axis = 1>(y, three)
}"""


@pytest.mark.parametrize("how", [{"target": "ort"}, {"target": "ort", "max_drop": "1%", "weights": "int4"}])
def test_an_output_that_is_a_sequence(how, tmp_path):
    made = model(SEQUENCE, 18, W=weight(16, 8))
    data = [{"x": weight(1, 6, 16, seed=seed)} for seed in range(16)]
    report = quantize(made, tmp_path / "q.onnx", data, **{"weights": "int8", **how})
    assert report.verification.ok
    (line,) = report.verification.fidelity
    sessions = [ort.InferenceSession(m.SerializeToString()) for m in (made, onnx.load(tmp_path / "q.onnx"))]
    pairs = [
        [np.concatenate(session.run(None, feed)[0], axis=1) for session in sessions] for feed in data[:4]
    ]
    noise = sum(float(np.sum((a - b) ** 2)) for a, b in pairs)
    signal = sum(float(np.sum(a**2)) for a, _ in pairs)
    assert line.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1)  # of other samples
