"""The sample network, calibrated and solved on the GPU, verified as any file is."""

from pathlib import Path

import numpy as np
import pytest

from comq_onnx import ComqError, Recipe, quantize
from comq_onnx.backends.engine import Engine

GLYPHS = Path(__file__).parent.parent.parent / "samples" / "glyphs"


def test_the_sample_is_quantized_as_well_as_on_the_cpu(gpu_engine: Engine, tmp_path: Path) -> None:
    assert gpu_engine.backend.xp is not np
    reports = {}
    for device in ("cpu", "cuda:0"):
        recipe, out = Recipe(device=device), tmp_path / f"{device[:4]}.onnx"
        try:
            reports[device] = quantize(GLYPHS / "glyphs.onnx", out, GLYPHS / "calibration.npz", recipe)
        except ComqError as error:
            pytest.skip(str(error))
        assert all(check.ok for check in reports[device].verification.checks)
    for mine, theirs in zip(reports["cuda:0"].lines, reports["cpu"].lines, strict=True):
        assert mine.sqnr_after == pytest.approx(theirs.sqnr_after, abs=0.5)
