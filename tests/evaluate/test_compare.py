"""Two models side by side, in onnxruntime and in plain NumPy."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx import helper

import comq_onnx
from comq_onnx import CompareOptions, Comparison, ComqError, Recipe, compare, quantize

GLYPHS = Path(__file__).parents[2] / "samples" / "glyphs"
QUICK = CompareOptions(latency=False, layers=False)
W, DAMAGED = weight(16, 4), weight(16, 4) + 0.1 * weight(16, 4, seed=1)
DATA = {"x": np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)}


def net(w=W, t="float", text="y = MatMul(x, w)", batch="N"):
    return model(f"g ({t}[{batch}, 16] x) => ({t}[{batch}, 4] y) {{ {text} }}", w=w)


def decibel(x, y):
    return 20 * np.log10(np.linalg.norm(np.float64(x)) / np.linalg.norm(np.float64(x) - y))


def test_outputs_by_plain_numpy():
    found = compare(net(), net(DAMAGED), DATA, options=QUICK)
    assert isinstance(found, Comparison)
    x, y = DATA["x"] @ W, DATA["x"] @ DAMAGED
    for setting in ("exact", "deployed"):
        (line,) = found.settings[setting].outputs
        assert line.sqnr_db == pytest.approx(decibel(x, y), abs=1e-3)
        assert line.worst["sqnr_db"].sample == int(
            np.argmin([decibel(a, b) for a, b in zip(x, y, strict=True)])
        )
        assert line.top1 == pytest.approx(np.mean(x.argmax(1) == y.argmax(1)))
        assert (line.classes, line.shape) == ("logits", (1, 4))
    assert (found.samples, found.synthetic, found.parting) == (6, False, None)


def test_equal_models_and_json():
    found = compare(net(), net(), DATA)
    line, whole = found.settings["exact"].outputs[0], json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert line.identical
    assert line.sqnr_db == math.inf
    assert whole["settings"]["exact"]["outputs"][0]["sqnr_db"] is None
    assert whole["settings"]["exact"]["outputs"][0]["identical"] is True
    assert whole["size_ratio"] == 1
    assert whole["parting"]["first"] is None
    assert found.settings["deployed"].latency is not None
    assert 0.05 < found.settings["deployed"].latency.ratio < 20


def test_facts_of_files_and_external_data(tmp_path):
    big = net(np.zeros((16, 4), np.float32))
    big.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "v"))
    path = tmp_path / "a.onnx"
    onnx.save(big, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = compare(path, net(), DATA, options=QUICK)
    on_disk = path.stat().st_size + (tmp_path / "w.bin").stat().st_size
    assert (found.a.name, found.a.bytes, found.a.opset, found.a.nodes) == (str(path), on_disk, 17, 1)
    assert found.size_ratio == pytest.approx(found.b.bytes / on_disk)


def test_half_precision_and_a_fixed_batch():
    half = net(W.astype(np.float16), "float16", batch="2")
    found = compare(net(), half, DATA)
    (line,) = found.settings["exact"].outputs
    assert line.sqnr_db is not None
    assert 50 < line.sqnr_db < 90
    assert line.shape == (2, 4)
    assert line.worst["sqnr_db"].sample in range(6)  # samples are told apart within a batch


def test_dynamic_shapes_one_sample_after_the_other():
    text = "g (float[N, T, 16] x) => (float[N, T, 4] y) { y = MatMul(x, w) }"
    data = [{"x": np.ones((1, length, 16), np.float32) * length} for length in (2, 5, 3)]
    found = compare(model(text, w=W), model(text, w=DAMAGED), data, options=QUICK)
    ones = np.ones((1, 16), np.float32)
    assert found.settings["exact"].outputs[0].sqnr_db == pytest.approx(
        decibel(ones @ W, ones @ DAMAGED), abs=1e-3
    )
    assert found.samples == 3


def test_other_names_are_paired_for_the_metric_too():
    other = model("g (float[N, 16] image) => (float[N, 4] z) { z = MatMul(image, w) }", w=DAMAGED)

    def metric(predict):
        return float(predict({"x": DATA["x"]})["y"][0, 0])

    found = compare(net(), other, DATA, metric, CompareOptions(latency=False))
    expected = pytest.approx(((DATA["x"] @ W)[0, 0], (DATA["x"] @ DAMAGED)[0, 0]), abs=1e-5)
    assert found.settings["exact"].scores == expected
    assert (found.metric, len(found.notes)) == ("metric", 2)


def test_deployment_settings_round_activations(tmp_path):
    """A product that onnxruntime fuses differs from what the file says as deployed, not at exact settings."""
    w = weight(512, 256)
    left = model("g (float[N, 512] x) => (float[N, 256] emb) { h = MatMul(x, w) emb = Tanh(h) }", w=w)
    data = {"x": np.random.default_rng(1).standard_normal((8, 512)).astype(np.float32)}
    quantize(left, tmp_path / "q.onnx", data, Recipe(solver="rtn"))
    found = compare(tmp_path / "q.onnx", tmp_path / "q.onnx", data, options=QUICK)
    assert found.settings["deployed"].outputs[0].identical
    found = compare(left, tmp_path / "q.onnx", data, options=QUICK)
    exact, deployed = (found.settings[name].outputs[0].sqnr_db or 0 for name in ("exact", "deployed"))
    assert exact > deployed > 10


def test_no_data_is_said():
    found = compare(net(), net(DAMAGED), options=CompareOptions(samples=5, latency=False, layers=False))
    assert (found.synthetic, found.samples) == (True, 5)
    assert found.data.startswith("NO DATA GIVEN: 5 synthetic samples")


def test_bfloat16_and_files_for_other_runtimes_are_told(tmp_path):
    wide = net()
    wide.graph.initializer[0].CopyFrom(helper.make_tensor("w", onnx.TensorProto.BFLOAT16, W.shape, W.ravel()))
    del wide.graph.node[:]
    wide.graph.node.extend(
        onnx.parser.parse_graph(
            "g (float[N, 16] x) => (float[N, 4] y) { v = Cast<to = 1>(w) y = MatMul(x, v) }"
        ).node
    )
    found = compare(net(), wide, DATA, options=QUICK)
    assert found.notes == ("B is run in its float32 form: onnxruntime has no bfloat16 kernels for a CPU",)
    meant = net()
    meant.metadata_props.add(key="comq.recipe", value='{"target": "tensorrt"}')
    assert "B is made for tensorrt" in compare(net(), meant, DATA, options=QUICK).notes[0]
    for strange in ("{", "[]", '{"target": []}', '{"target": "mars"}'):
        meant.metadata_props[0].value = strange
        assert compare(net(), meant, DATA, options=QUICK).notes == ()


@pytest.mark.parametrize(
    ("a", "data", "said"),
    [
        ("missing.onnx", DATA, "missing.onnx: the file does not exist"),
        (net(text="h = MatMul(x, w) y = Resahpe(h)"), DATA, "does not load"),
        (net(), {"x": np.ones((3, 7), np.float32)}, "x"),
        (net(), {"z": DATA["x"]}, "z"),
    ],
)
def test_what_cannot_be_compared(a, data, said):
    with pytest.raises(ComqError, match=said):
        compare(a, net(), data, options=QUICK)


def test_outputs_that_are_no_tensors_or_hold_text():
    text = """g (float[N, 4] x, string[N] s) => (float[N, 4] y, string[N] t, seq(float[N, 4]) q) {
        y = Relu(x) t = Identity(s) q = SequenceConstruct(x)
    }"""
    data = {"x": np.ones((2, 4), np.float32), "s": np.array(["a", "b"])}
    found = compare(model(text), model(text), data, options=CompareOptions(latency=False))
    lines = {line.output: line for line in found.settings["exact"].outputs}
    assert lines["y"].identical
    assert lines["t"].equal == 1
    assert lines["q"].note == "it is no tensor, and not compared"


def test_names_are_offered_lazily():
    assert {"compare", "CompareOptions", "Comparison"} <= set(comq_onnx.__all__)


@pytest.mark.slow
def test_the_sample(tmp_path):
    quantize(
        GLYPHS / "glyphs.onnx",
        tmp_path / "q.onnx",
        GLYPHS / "calibration.npz",
        Recipe(solver="rtn", weights="int2"),
    )
    found = compare(
        GLYPHS / "glyphs.onnx",
        tmp_path / "q.onnx",
        GLYPHS / "calibration.npz",
        options=CompareOptions(samples=8),
    )
    assert found.parting is not None
    assert found.parting.first is not None
    assert found.parting.losses[0].layers
    assert found.settings["exact"].outputs[0].classes == "logits"
    assert found.size_ratio < 0.5
