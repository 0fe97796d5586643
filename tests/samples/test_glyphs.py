"""The sample of the README does what the README says it does."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from comq_onnx import Recipe, quantize

GLYPHS = Path(__file__).parents[2] / "samples" / "glyphs"


def score(path: Path) -> float:
    spec = importlib.util.spec_from_file_location("score", GLYPHS / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with np.load(GLYPHS / "test.npz") as test:
        return module.score(str(path), test["image"], test["label"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sample quantized to int4 by three solvers, every check passed."""
    folder, made = tmp_path_factory.mktemp("glyphs"), {}
    for solver in ("rtn", "gptq", "comq"):
        made[solver] = folder / f"{solver}.onnx"
        recipe = Recipe(solver=solver)
        report = quantize(GLYPHS / "glyphs.onnx", made[solver], GLYPHS / "calibration.npz", recipe)
        assert all(check.ok for check in report.verification.checks)
    return made


@pytest.mark.slow
def test_rounding_fails_visibly_and_comq_does_not(files: dict[str, Path]) -> None:
    reference = score(GLYPHS / "glyphs.onnx")
    top1 = {solver: score(path) for solver, path in files.items()}
    assert top1["rtn"] < reference - 20
    assert top1["comq"] > reference - 3
    assert top1["comq"] > top1["gptq"]


@pytest.mark.slow
@pytest.mark.openvino
def test_openvino_gives_onnxruntimes_answer(files: dict[str, Path]) -> None:
    openvino = pytest.importorskip("openvino")
    with np.load(GLYPHS / "test.npz") as test:
        images = test["image"][:64]
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    got = openvino.Core().compile_model(str(files["comq"]), "CPU", exact)({"image": images})[0]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(files["comq"]), options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"image": images})[0]
    assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)
