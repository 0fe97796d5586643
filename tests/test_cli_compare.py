"""``comq-onnx compare`` as a user meets it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from graphs import model, weight

from comq_onnx.cli import main

METRIC = """
import numpy as np

def first(predict):
    return predict({"x": np.ones((1, 16), np.float32)})["logits"][0, 0]

def text(predict):
    return "good"
"""


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks, of which ``b.onnx`` was damaged in its second layer, and data."""
    text = """g (float[N, 16] x) => (float[N, 4] logits) {
        [first] a = MatMul(x, v) [relu] h = Relu(a) [second] logits = MatMul(h, w)
    }"""
    v, w = weight(16, 16), weight(16, 4, seed=1)
    for name, wrong in (("a", 0.0), ("b", 0.5)):
        proto = model(text, v=v, w=w + np.float32(wrong) * weight(16, 4, seed=2))
        for node, label in zip(proto.graph.node, ("first", "relu", "second"), strict=True):
            node.name = label
        onnx.save(proto, tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((9, 16)).astype(np.float32))
    (tmp_path / "cmp_metric.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_printed(folder: Path) -> None:
    done = call("compare", "a.onnx", "b.onnx", "--data", "x.npz", "--metric", "cmp_metric:first")
    assert (done.exit_code, done.stderr) == (0, "")
    for said in (
        "B has 1.00x the bytes of A. Compared on 9 samples of x.npz.",
        "Read as logits, for top-1 and KL (in nats): 'logits'",
        "cmp_metric:first, exact: A ",
        "cmp_metric:first, as deployed: A ",
        "One batch in onnxruntime, exact: A ",
        "Layers: 3 floating tensors that bear one name in both graphs",
        "First below 20 dB: 'logits' (MatMul) at ",
        ", made of 'h' at inf dB through second.",
    ):
        assert said in done.stdout
    assert done.stdout.splitlines()[-1].split()[-1] == "second"


def test_parts_can_be_left_out_and_spelled_as_in_quantize(folder: Path) -> None:
    done = call("compare", "a.onnx", "a.onnx", "--calibration_data", "x.npz", "--no-latency", "--no-layers")
    assert "'logits' is equal to the last bit (settings: both)." in done.stdout
    assert "One batch" not in done.stdout
    assert "Layers" not in done.stdout


def test_json(folder: Path) -> None:
    done = call("compare", "a.onnx", "b.onnx", "--data", "x.npz", "--json", "--samples", 3, "--threads", 1)
    whole = json.loads(done.stdout)
    assert (whole["samples"], whole["a"]["name"], done.stderr) == (3, "a.onnx", "")
    assert whole["parting"]["first"]["name"] == "logits"
    assert whole["parting"]["losses"][0]["layers"] == ["second"]
    assert set(whole["settings"]["exact"]["latency"]) >= {"a_seconds", "b_seconds", "ratio"}


def test_made_up_inputs_are_told_loudly(folder: Path) -> None:
    done = call("compare", "a.onnx", "b.onnx", "--samples", 4, "--no-latency")
    assert "NO DATA GIVEN: 4 synthetic samples" in done.stdout
    assert "say little about real ones. Give --data." in done.stdout
    done = call("compare", "a.onnx", "b.onnx", "--samples", 4, "--no-latency", "--json")
    assert json.loads(done.stdout)["synthetic"] is True
    assert "NO DATA GIVEN" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.onnx", "no.onnx"), "comq-onnx: no.onnx: the file does not exist; check the path."),
        (("a.onnx", "cmp_metric.py"), "comq-onnx: cmp_metric.py: it is not an ONNX model; export or copy"),
        (("a.onnx", "b.onnx", "--data", "no.npz"), "comq-onnx: no.npz: the calibration data do not exist"),
        (
            ("a.onnx", "b.onnx", "--data", "x.npz", "--metric", "first"),
            "comq-onnx: --metric: 'first' is not module",
        ),
        (("a.onnx", "b.onnx", "--data", "x.npz", "--metric", "cmp_metric:text"), "not a finite number"),
        (("a.onnx", "b.onnx", "--data", "x.npz", "--classes", "q"), "comq-onnx: --classes: 'q' is no output"),
    ],
)
def test_wrong_input_is_one_sentence(folder: Path, words: tuple[str, ...], said: str) -> None:
    done = call("compare", *words, "--no-latency")
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_usage(folder: Path) -> None:
    assert call("compare", "a.onnx").exit_code == 2
    assert call("compare", "a.onnx", "b.onnx", "--samples", 0).exit_code == 2
    assert "Hold the ONNX model B against A" in call("compare", "--help").stdout
    assert "compare" in call("--help").stdout


def test_pictures_are_prepared_as_they_were_for_calibration(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    net = model("g (float[N, 1, 4, 4] x) => (float[N, 16] y) { y = Flatten(x) }")
    onnx.save(net, folder / "flat.onnx")
    (folder / "photos").mkdir()
    image.new("L", (4, 4), 51).save(folder / "photos" / "grey.png")
    (folder / "seen.py").write_text(
        "def make():\n    import numpy as np\n    yield {'x': np.ones((1, 1, 4, 4), 'f')}\n"
    )
    words = ("compare", "flat.onnx", "flat.onnx", "--no-latency", "--json")
    for chosen, said in (("unit", "(x/255 - 0) / 1"), ("mean=0.5,std=0.5", "(x/255 - 0.5) / 0.5")):
        done = call(*words, "--data", "photos", "--preprocess", chosen)
        assert done.exit_code == 0
        assert said in json.loads(done.stdout)["data"]
    assert json.loads(call(*words, "--data", "seen:make").stdout)["samples"] == 1
    refused = call(*words, "--data", "photos", "--tokenizer", "tokenizer.json")
    assert (refused.exit_code, "a tokenizer reads a text file" in refused.stderr) == (1, True)
