"""``comq-onnx check`` as a user meets it, and how it lives beside the plain form."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from qdq_files import CONV, FLOAT, INT4_MATMUL
from targets.rules.wrong import ORT
from trt_foreign import MODELOPT_INT8
from trt_valid import in_float32

from comq_onnx.cli import main
from comq_onnx.run.tensorrt_ import Engine, Product
from comq_onnx.targets.rules import RULES


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A file with an error and a warning."""
    path = tmp_path / "wrong.onnx"
    proto = MODELOPT_INT8.but(z=MODELOPT_INT8.arrays["z"] + 3).proto()
    proto.graph.node[0].name = "quantize_x"
    onnx.save(proto, path)
    return path


def test_a_line_for_each_finding_and_one_that_counts(wrong: Path) -> None:
    done = call("check", wrong, "--target", "tensorrt")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0] == ("TRT-E07 error quantize_x: 1 of its 1 zero points are not 0; quantize symmetrically.")
    assert lines[1].startswith("TRT-W09 warning the model: ")
    assert lines[2] == f"{wrong} for tensorrt: 1 error, 1 warning."


def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    onnx.save(in_float32(CONV).proto(), tmp_path / "m.onnx")
    done = call("check", tmp_path / "m.onnx", "--target=tensorrt")
    assert done.exit_code == 0
    assert done.stdout.endswith("0 errors, 1 warning.\n")


def test_nothing_found(tmp_path: Path) -> None:
    onnx.save(INT4_MATMUL.proto(), tmp_path / "m.onnx")
    done = call("check", tmp_path / "m.onnx", "--target", "tensorrt")
    assert (done.exit_code, done.stdout) == (
        0,
        f"{tmp_path / 'm.onnx'} for tensorrt: 0 errors, 0 warnings.\n",
    )


def test_a_note_is_counted_and_is_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(ORT["ORT-N01"].proto, path)
    done = call("check", path, "--target", "ort")
    line, counted = done.stdout.splitlines()
    assert done.exit_code == 0
    assert line.startswith("ORT-N01 note ")
    assert "may overflow on x64 without VNNI; quantize with --reduce-range" in line
    assert counted == f"{path} for ort: 0 errors, 0 warnings, 1 note."
    whole = json.loads(call("check", path, "--target", "ort", "--json").stdout)
    assert (whole["errors"], whole["warnings"], whole["notes"]) == (0, 0, 1)
    assert whole["findings"][0]["severity"] == "note"


def test_json(wrong: Path) -> None:
    done = call("check", wrong, "--target", "tensorrt", "--json")
    assert done.exit_code == 1
    whole = json.loads(done.stdout)
    assert (whole["errors"], whole["warnings"], whole["notes"], whole["target"]) == (1, 1, 0, "tensorrt")
    assert whole["findings"][0] == {
        "rule": "TRT-E07",
        "severity": "error",
        "node": "quantize_x",
        "why": "1 of its 1 zero points are not 0",
        "fix": "quantize symmetrically",
    }


def test_the_list_of_rules() -> None:
    done = call("check", "--list-rules", "--target", "tensorrt")
    assert done.exit_code == 0
    for rule, line in zip(RULES["tensorrt"], done.stdout.splitlines(), strict=True):
        assert line == f"{rule.id} {rule.severity} {rule.demands}"
    lines = call("check", "--list-rules").stdout.splitlines()
    assert len(lines) == len(set(lines)) == len({rule.id for rules in RULES.values() for rule in rules})
    listed = json.loads(call("check", "--list-rules", "--json").stdout)
    assert [(r["target"], r["rule"]) for r in listed] == [(t, r.id) for t in RULES for r in RULES[t]]


@pytest.mark.parametrize("content", [None, b"", b"hello", b"\x08\x0a\x3a\xff"])
def test_what_is_no_model_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    done = call("check", path, "--target", "tensorrt", "--json")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"comq-onnx: {path}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_is_one_sentence(tmp_path: Path) -> None:
    done = call("check", tmp_path, "--target", "tensorrt")
    assert done.exit_code == 1
    assert "it is a folder" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("m.onnx",), "Missing option '--target'"),
        (("--target", "tensorrt"), "Missing argument 'MODEL'"),
        (
            ("m.onnx", "--target", "abacus"),
            "'abacus' is not one of 'portable', 'ort', 'tensorrt', 'openvino', 'web'",
        ),
    ],
)
def test_usage(words: tuple[str, ...], told: str) -> None:
    done = call("check", *words)
    assert done.exit_code == 2
    assert told in done.stderr


def test_help_is_on_quantizing_and_lists_the_commands() -> None:
    for flag in ("--help", "-h"):
        told = call(flag)
        assert told.exit_code == 0
        for words in ("[OPTIONS] MODEL", "--solver", "--version", "Commands:", "check "):
            assert words in told.stdout
    assert "--list-rules" in call("check", "-h").stdout
    assert "tensorrt" in call("check", "--help").stdout


def test_version_and_a_missing_argument() -> None:
    assert call("--version").stdout.startswith("comq-onnx, version ")
    done = call()
    assert done.exit_code == 2
    assert "Missing argument 'MODEL'" in done.stderr


def test_options_may_come_first_in_the_plain_form(tmp_path: Path) -> None:
    done = call("--dry_run", tmp_path / "none.onnx")
    assert done.exit_code == 1
    assert "the file does not exist" in done.stderr


def test_a_file_called_check_is_reached_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(in_float32(FLOAT).proto(), tmp_path / "m.onnx")
    shutil.copy(tmp_path / "m.onnx", tmp_path / "check")
    monkeypatch.chdir(tmp_path)
    assert call("./check", "--dry-run").exit_code == 0
    assert "Missing argument" in call("check").stderr


BUILT = Engine("TensorRT 0", True, bytes=1000, seconds=1.0, products=(Product("c", ("int8", "int8")),))
REFUSED = Engine("TensorRT 0", True, error="no kernel")


@pytest.mark.parametrize(
    ("engine", "code", "line"),
    [
        (BUILT, 0, "TensorRT 0: 1,000 bytes, built in 1.0 s; products: 1 int8."),
        (REFUSED, 1, "TensorRT 0: it refuses the file: no kernel."),
    ],
)
def test_build_adds_a_line_and_a_refusal_is_a_failure(
    engine: Engine, code: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comq_onnx.evaluate.engines.build_engine", lambda *_: engine)
    path = tmp_path / "m.onnx"
    onnx.save(INT4_MATMUL.proto(), path)
    done = call("check", path, "--target", "tensorrt", "--build")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (code, line)
    told = json.loads(call("check", path, "--target", "tensorrt", "--build", "--json").stdout)["engine"]
    assert (told["runtime"], told["built"], told["error"]) == ("TensorRT 0", not code, engine.error)


def test_build_without_the_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comq_onnx.run.tensorrt_.find_spec", lambda name: None)
    onnx.save(INT4_MATMUL.proto(), tmp_path / "m.onnx")
    done = call("check", tmp_path / "m.onnx", "--target", "tensorrt", "--build")
    assert done.exit_code == 1
    assert "pip install 'comq-onnx[tensorrt]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_build_is_for_tensorrt(wrong: Path) -> None:
    done = call("check", wrong, "--target", "ort", "--build")
    assert done.exit_code == 2
    assert "--build is for --target tensorrt" in done.stderr
