"""Whatever a user can put right ends in one sentence on stderr, exit code 1, and no file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import model, weight

from comq_onnx.cli import main

LINEAR = "g (float[B,32] x) => (float[B,16] y) { y = MatMul(x, w) }"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(model(LINEAR, w=weight(32, 16)), path)
    np.savez(tmp_path / "data.npz", x=weight(20, 32, seed=3))
    return path


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Run the command; return its one sentence after checking that nothing was written."""

    def call(*words: object, out: Path | None = None) -> str:
        out = out or tmp_path / "out.onnx"
        before = out.read_bytes() if out.is_file() else None
        result = CliRunner().invoke(main, [*map(str, words), "-o", str(out)])
        assert result.exit_code == 1, (result.output, result.exception)
        assert isinstance(result.exception, SystemExit)
        lines = [line for line in result.stderr.splitlines() if line.startswith("comq-onnx: ")]
        assert len(lines) == 1
        assert lines[0].endswith(".")
        assert "Traceback" not in result.output
        assert (out.read_bytes() if out.is_file() else None) == before
        assert not list(tmp_path.glob(".comq-*"))
        return lines[0]

    return call


def test_missing_file(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "nothing.onnx" in refused(tmp_path / "nothing.onnx")


def test_missing_file_with_an_older_output(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_bytes(b"of an earlier run")
    assert "nothing.onnx" in refused(tmp_path / "nothing.onnx")


def test_not_onnx(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "photo.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    assert "photo.onnx" in refused(path)


def test_empty_file(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    assert "empty.onnx" in refused(path)


def test_truncated_protobuf(refused: Callable[..., str], good: Path) -> None:
    good.write_bytes(good.read_bytes()[:-700])
    assert "model.onnx" in refused(good)


def test_missing_external_data(refused: Callable[..., str], good: Path) -> None:
    onnx.save(onnx.load(good), good, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (good.parent / "weights.bin").unlink()
    assert "weights.bin" in refused(good)


def test_calibration_file_missing(refused: Callable[..., str], good: Path) -> None:
    assert "no.npz" in refused(good, "--calibration-data", good.parent / "no.npz")


def test_calibration_names_do_not_fit(refused: Callable[..., str], good: Path) -> None:
    np.savez(good.parent / "other.npz", image=weight(20, 32))
    said = refused(good, "--calibration-data", good.parent / "other.npz")
    assert "image" in said
    assert "x" in said


def test_calibration_shapes_do_not_fit(refused: Callable[..., str], good: Path) -> None:
    np.savez(good.parent / "other.npz", x=weight(20, 31))
    said = refused(good, "--calibration-data", good.parent / "other.npz")
    assert "31" in said
    assert "32" in said


def test_calibration_dtypes_do_not_fit(refused: Callable[..., str], good: Path) -> None:
    np.savez(good.parent / "other.npz", x=np.array([["a"] * 32]))
    assert "float32" in refused(good, "--calibration-data", good.parent / "other.npz")


def test_calibration_pickle_is_refused(refused: Callable[..., str], good: Path) -> None:
    np.save(good.parent / "objects.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    assert "objects.npy" in refused(good, "--calibration-data", good.parent / "objects.npy")


def test_calibration_is_empty(refused: Callable[..., str], good: Path) -> None:
    np.savez(good.parent / "none.npz", x=weight(20, 32)[:0])
    assert "none.npz" in refused(good, "--calibration-data", good.parent / "none.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_is_not_finite(refused: Callable[..., str], good: Path, value: float) -> None:
    rows = weight(20, 32)
    rows[7, 3] = value
    np.savez(good.parent / "bad.npz", x=rows)
    assert "x" in refused(good, "--calibration-data", good.parent / "bad.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weight_is_not_finite(refused: Callable[..., str], tmp_path: Path, value: float) -> None:
    values = weight(32, 16)
    values[3, 5] = value
    path = tmp_path / "bad.onnx"
    onnx.save(model(LINEAR, w=values), path)
    assert "w" in refused(path)


def test_activation_is_not_finite(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "log.onnx"
    text = "g (float[B,32] x) => (float[B,16] y) { h = Log(x) y = MatMul(h, w) }"
    onnx.save(model(text, w=weight(32, 16)), path)
    np.savez(tmp_path / "data.npz", x=-np.abs(weight(20, 32)))
    said = refused(path, "--calibration-data", tmp_path / "data.npz")
    assert "h" in said
    assert "NaN" in said


def test_no_quantizable_layer(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "relu.onnx"
    onnx.save(model("g (float[B,32] x) => (float[B,32] y) { y = Relu(x) }"), path)
    assert "no layer can be quantized" in refused(path)


def test_output_folder_missing(refused: Callable[..., str], good: Path, tmp_path: Path) -> None:
    assert "nowhere" in refused(good, out=tmp_path / "nowhere" / "out.onnx")


def test_output_is_a_folder(refused: Callable[..., str], good: Path, tmp_path: Path) -> None:
    assert "folder" in refused(good, out=tmp_path)


def test_output_cannot_be_written(refused: Callable[..., str], good: Path) -> None:
    assert "/proc" in refused(good, out=Path("/proc/out.onnx"))


def test_output_is_the_input(refused: Callable[..., str], good: Path) -> None:
    assert "input" in refused(good, out=good)


@pytest.mark.parametrize("flag", ["--nodes-to-quantize", "--nodes-to-exclude", "--op-types-to-quantize"])
def test_pattern_matches_nothing(refused: Callable[..., str], good: Path, flag: str) -> None:
    assert "no_such_node" in refused(good, flag, "no_such_node")


def test_pattern_is_not_a_regex(refused: Callable[..., str], good: Path) -> None:
    assert "(" in refused(good, "--nodes-to-exclude", "(")


def test_block_size_is_not_one(refused: Callable[..., str], good: Path) -> None:
    assert "--block-size" in refused(good, "--block-size", "7")


def test_mask_input_is_unknown(refused: Callable[..., str], good: Path) -> None:
    data = good.parent / "data.npz"
    assert "masque" in refused(good, "--mask-input", "masque", "--calibration-data", data)


def test_report_is_a_folder(refused: Callable[..., str], good: Path) -> None:
    (good.parent / "dir.json").mkdir()
    assert "folder" in refused(good, "--report", good.parent / "dir.json")


def test_report_is_not_json(refused: Callable[..., str], good: Path) -> None:
    assert "--report" in refused(good, "--report", good.parent / "report.txt")
