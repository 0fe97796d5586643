"""``comq-onnx inspect`` as a user meets it."""

import json
from io import StringIO
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from test_offers import NET

from comq_onnx.cli import main
from comq_onnx.evaluate.contents_table import print_contents
from comq_onnx.offers import inspect

GLYPHS = Path(__file__).parents[1] / "samples" / "glyphs"


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(NET, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_what_is_printed(net: Path) -> None:
    done = call("inspect", net)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{net}: {net.stat().st_size:,} bytes, IR 8, opset 17"
    assert "input     ids int64 [N, 4]" in lines
    table = [" ".join(line.split()) for line in lines if line.startswith(("wide", "conv", "table"))]
    ort = "8 4 2 DQ, 6 5 3 planes +a8"
    for offered in ("8 4 DQ, 6 5 3 2 planes +a8", ort, "8 W8A8, 6 5 no [4], 4 3 2 DQ +a8"):
        assert f"wide MatMul 256x384 393,216 {offered}" in table
    assert any(line.endswith("8 W8A8, 6=8 5=8 4=8 3=8 2=8 W8A8 [5] +a8") for line in table if "Conv" in line)
    assert "  [5] int8: TensorRT has no narrower weights beside 8-bit activations" in lines
    assert any(line.startswith("table Gather") and line.endswith(" no [3]") for line in table)
    assert "  DQ: codes in the file and in memory, a DequantizeLinear before the product" in lines
    assert any(line.endswith("TensorRT has no quantized embeddings: stays fp16") for line in lines)
    assert any(line.startswith("4 weights can be quantized: 752,480 bytes, ") for line in lines)


def test_a_narrow_terminal_has_a_table_for_each_target() -> None:
    text = StringIO()
    print_contents(inspect(NET, ["ort", "tensorrt"]), Console(file=text, width=70))
    heads = [line.split() for line in text.getvalue().splitlines() if line.startswith("layer")]
    assert heads == [["layer", "op", "shape", "bytes", name] for name in ("ort", "tensorrt")]
    wide = [line for line in text.getvalue().splitlines() if line.startswith("wide")]
    assert [line.split()[3] for line in wide] == ["393,216"] * 2


def test_one_target_and_json(net: Path) -> None:
    done = call("inspect", net, "--target", "web", "--json")
    whole = json.loads(done.stdout)
    assert [list(line["offers"]) for line in whole["weights"]] == [["web"]] * 4
    assert whole["weights"][1]["offers"]["web"]["int4"] == {
        "grid": "int4 b128",
        "form": "Cast*scale",
        "why": "",
    }
    assert sum(line["bytes"] for line in whole["weights"]) == 752480
    assert whole["constant_bytes"] == 752480


def test_the_model_is_not_run(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr("comq_onnx.run.session._load", fail)
    assert call("inspect", net).exit_code == 0


def test_a_quantized_file(tmp_path: Path) -> None:
    from comq_onnx import Recipe, quantize

    quantize(NET, tmp_path / "q.onnx", None, Recipe(solver="rtn", calibration_samples=1))
    done = call("inspect", tmp_path / "q.onnx", "--target", "ort")
    assert "(already quantized)" in done.stdout
    assert "metadata  comq.version, comq.recipe, comq.calibration" in done.stdout
    assert "1 weight can be quantized" in done.stdout  # the embedding


@pytest.mark.parametrize("name", ["no.onnx", "text.onnx", "."])
def test_wrong_input_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    monkeypatch.chdir(tmp_path)
    done = call("inspect", name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"comq-onnx: {name}: ")
    assert done.stderr.count("\n") == 1


def test_usage(net: Path) -> None:
    assert call("inspect").exit_code == 2
    assert call("inspect", net, "--target", "mars").exit_code == 2
    assert "not run" in call("inspect", "--help").stdout


def test_the_sample() -> None:
    done = call("inspect", GLYPHS / "glyphs.onnx")
    assert "38 weights can be quantized" in done.stdout
    assert "metadata  classes, pixels" in done.stdout
