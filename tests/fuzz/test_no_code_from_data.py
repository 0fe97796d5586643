"""``module:callable`` is run where the command line names it, and never because data do."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import model, weight

from comq_onnx.cli import main

LINEAR = "g (float[B,32] x) => (float[B,16] y) { y = MatMul(x, w) }"
PICTURES = "g (float[B,3,8,8] x) => (float[B,4,6,6] y) { y = Conv(x, w) }"
MODULE = """
import numpy

open('ran', 'w').close()


def call(*args):
    return {'x': numpy.ones((4, 32), 'f')}
"""
NAMED = "hostile_module:call"
RUN = "__import__('os').system('touch ran')"


class Payload:
    """Makes the file ``ran`` where it is unpickled."""

    def __reduce__(self) -> tuple:
        return (eval, ("open('ran', 'w').close()",))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, bool]]:
    """Run the command in a folder with a hostile module: its exit code, and whether any of it was run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile_module.py").write_text(MODULE)
    onnx.save(model(LINEAR, w=weight(32, 16)), "linear.onnx")
    onnx.save(model(PICTURES, w=weight(27, 4).T.reshape(4, 3, 3, 3).copy()), "pictures.onnx")

    def call(*words: str) -> tuple[int, bool]:
        result = CliRunner().invoke(
            main, [*words, "-o", "out.onnx", "--target", "ort", "--effort", "fast", "-q"]
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, (tmp_path / "ran").exists()

    return call


def test_the_command_line_may(run: Callable[..., tuple[int, bool]]) -> None:
    """So that the tests below would see it."""
    assert run("linear.onnx", "--calibration-data", NAMED) == (0, True)


@pytest.mark.parametrize(
    "key", ["preprocess", "calibration_data", "metric", "names", "imgsz", "comq_onnx.recipe"]
)
@pytest.mark.parametrize("value", [NAMED, RUN, f"[{RUN}]", json.dumps({"metric": NAMED, "max_drop": "1%"})])
def test_metadata_may_not(run: Callable[..., tuple[int, bool]], key: str, value: str) -> None:
    from PIL import Image

    Path("photos").mkdir()
    Image.new("RGB", (9, 9), (1, 2, 3)).save("photos/a.png")
    for name in ("linear", "pictures"):
        proto = onnx.load(f"{name}.onnx")
        proto.metadata_props.add(key=key, value=value)
        onnx.save(proto, f"{name}.onnx")
    np.savez("data.npz", x=weight(4, 32))
    code, ran = run("linear.onnx", "--calibration-data", "data.npz")
    assert (code, ran) == (0, False)
    assert not run("pictures.onnx", "--calibration-data", "photos")[1]


@pytest.mark.parametrize("suffix", ["json", "toml"])
@pytest.mark.parametrize("key", ["preset", "filter", "mean", "size", "module", "callable"])
def test_a_specification_may_not(run: Callable[..., tuple[int, bool]], suffix: str, key: str) -> None:
    from PIL import Image

    Path("photos").mkdir()
    Image.new("RGB", (9, 9), (1, 2, 3)).save("photos/a.png")
    found = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 8, "width": 8}, key: NAMED}
    text = json.dumps(found) if suffix == "json" else f'resize = "exact"\n{key} = "{NAMED}"\n'
    Path(f"spec.{suffix}").write_text(text)
    assert not run("pictures.onnx", "--calibration-data", "photos", "--preprocess", f"spec.{suffix}")[1]
    assert run("pictures.onnx", "--calibration-data", "photos", "--preprocess", NAMED) == (1, False)


def test_archives_may_not(run: Callable[..., tuple[int, bool]]) -> None:
    np.savez("data.npz", x=np.array([Payload()], dtype=object))
    np.save("data.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(), protocol=2))
        archive.writestr("archive/version", "3\n")
    Path("data.pt").write_bytes(packed.getvalue())
    Path("old.pt").write_bytes(pickle.dumps(Payload(), protocol=2))
    Path("raw.npy").write_bytes(pickle.dumps(Payload()))
    for name in ("data.npz", "data.npy", "data.pt", "old.pt", "raw.npy"):
        assert run("linear.onnx", "--calibration-data", name) == (1, False), name


def test_a_file_of_a_modules_name_goes_first(run: Callable[..., tuple[int, bool]]) -> None:
    Path(NAMED).write_text("of no known kind")
    assert run("linear.onnx", "--calibration-data", NAMED) == (1, False)
