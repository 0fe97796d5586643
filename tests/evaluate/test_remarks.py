"""What a user must be told is told, and nothing else."""

import pytest

from comq_onnx.evaluate.remarks import remarks
from comq_onnx.evaluate.verify import Fidelity, Verification
from comq_onnx.recipe import Recipe
from comq_onnx.records import LayerReport
from comq_onnx.run.data import Calibration


def line(op: str, form: str) -> LayerReport:
    return LayerReport("n", op, "w", (4, 4), "int4 channel", 64, 8, form=form)


def told(lines=(), fidelity=(), synthetic=False, **recipe) -> str:
    data = Calibration("made-up inputs", 4, synthetic, 4, lambda: iter(()))
    checks = Verification((), tuple(Fidelity("y", db, None) for db in fidelity))
    return " | ".join(remarks(lines, Recipe(**recipe), data, checks))


def test_a_plain_run_needs_no_remark() -> None:
    assert told(fidelity=[30.0]) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"synthetic": True}, "made-up inputs. The weights were fitted to made-up inputs"),
        ({"fidelity": [30.0, 4.25]}, "output 'y' is only 4.2 dB close"),
        ({"lines": [line("Conv", "Cast*scale")]}, "stored as Cast*scale: 1 of 1 layers"),
        ({"lines": [line("Gemm", "DequantizeLinear")]}, "low-bit kernels: 1 of 1 layers"),
        ({"lines": [line("Conv", "DequantizeLinear")]}, "recomputed by onnxruntime on every call"),
        ({"weights": "int3"}, "as large as an int4 file"),
        ({"weights": "int2"}, "--target ort packs them"),
    ],
)
def test_each_remark_has_its_cause(settings: dict, words: str) -> None:
    said = told(**settings)
    assert words in said
    assert " | " not in said


def test_float16_weights_are_not_counted() -> None:
    lines = [line("Conv", "Cast*scale"), line("Conv", "float16")]
    assert "Cast*scale: 1 of 1 layers" in told(lines)
    assert told([line("Conv", "float16")]) == ""


def test_packed_int2_and_embeddings_need_no_remark() -> None:
    assert told(weights="int2", target="ort") == ""
    assert told([line("Gather", "Cast*scale")]) == ""
