"""The sample of the README does what the README says it does."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from comq_onnx import Recipe, quantize

GLYPHS = Path(__file__).parent.parent / "samples" / "glyphs"


def score(path: Path) -> float:
    spec = importlib.util.spec_from_file_location("score", GLYPHS / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with np.load(GLYPHS / "test.npz") as test:
        return module.score(str(path), test["image"], test["label"])


@pytest.mark.slow
def test_rounding_fails_visibly_and_comq_does_not(tmp_path: Path) -> None:
    top1 = {"float": score(GLYPHS / "glyphs.onnx")}
    for solver in ("rtn", "gptq", "comq"):
        out = tmp_path / f"{solver}.onnx"
        report = quantize(GLYPHS / "glyphs.onnx", out, GLYPHS / "calibration.npz", Recipe(solver=solver))
        assert all(check.ok for check in report.verification.checks)
        top1[solver] = score(out)
    assert top1["rtn"] < top1["float"] - 20
    assert top1["comq"] > top1["float"] - 3
    assert top1["comq"] > top1["gptq"]
