"""Engines run on the GPU answer as onnxruntime does; skipped where TensorRT does not take the GPU."""

from pathlib import Path

import numpy as np
import pytest

from comq_onnx import Recipe, quantize
from comq_onnx.backends.cupy_ import CudaBackend
from comq_onnx.evaluate.agreement import check_agreement
from comq_onnx.evaluate.parity import ROUNDED_LIMIT
from comq_onnx.run.session import SessionOptions, open_session, outputs_on
from comq_onnx.run.tensorrt_ import build_engine, tensorrt_missing

GLYPHS = Path(__file__).parents[2] / "samples" / "glyphs"
RANGES = {"image": [(16, 1, 32, 32)] * 3}


@pytest.mark.tensorrt
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_sample_answers_as_in_onnxruntime(gpu: CudaBackend, weights: str, tmp_path: Path) -> None:
    if missing := tensorrt_missing():
        pytest.skip(missing)
    recipe = Recipe(weights=weights, target="tensorrt", solver="rtn")  # pyright: ignore[reportArgumentType]
    out = tmp_path / "q.onnx"
    quantize(GLYPHS / "glyphs.onnx", out, GLYPHS / "calibration.npz", recipe)
    with np.load(GLYPHS / "test.npz") as test:
        batches = [{"image": part} for part in np.split(test["image"][:64], 4)]
    found = build_engine(out, RANGES, batches, calls=20)
    assert found.error == ""
    if found.outputs is None:
        pytest.skip(f"{found.runtime} on this GPU: {found.not_run}")
    truth = outputs_on(open_session(GLYPHS / "glyphs.onnx", SessionOptions()), batches)
    plain = outputs_on(open_session(out, SessionOptions(optimize=False)), batches)
    apart = check_agreement("q", truth, plain, ROUNDED_LIMIT)
    assert check_agreement("q", plain, found.outputs, 0.1).ok, apart.detail
    assert found.milliseconds > 0
