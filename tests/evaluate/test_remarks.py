"""What a user must be told is told, and nothing else."""

from dataclasses import replace

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
        ({"lines": [line("Conv", "Cast*scale")]}, "stored as Cast*scale or bit planes: 1 of 1 layers"),
        ({"lines": [line("Gemm", "DequantizeLinear")]}, "low-bit kernels: 1 of 1 layers"),
        ({"lines": [line("Conv", "DequantizeLinear")]}, "recomputed by onnxruntime on every call"),
    ],
)
def test_each_remark_has_its_cause(settings: dict, words: str) -> None:
    said = told(**settings)
    assert words in said
    assert " | " not in said


@pytest.mark.parametrize(
    ("grid", "size", "held"),
    [("int3 channel", 36, 4), ("uint2 channel", 36, 4), ("int6 channel", 68, 8), ("int5 b32", 68, 8)],
)
def test_codes_that_take_more_bits_than_they_have_are_told(grid: str, size: int, held: int) -> None:
    wide = LayerReport("n", "Conv", "w", (8, 8), grid, 256, size, form="Cast*scale")
    planes = replace(wide, form="bit planes", bytes_after=size - 8)
    said = told([wide, planes, planes])
    assert f"codes of 1 of 3 layers take more bits in the file than they have, {held}:" in said
    assert "take more bits" not in told([planes])


def test_codes_in_a_type_of_their_own_need_no_remark() -> None:
    packed = LayerReport("n", "Gemm", "w", (64, 8), "int2 b64", 2048, 160, form="DequantizeLinear")
    assert "take more bits" not in told([packed], target="ort")


def test_float16_weights_are_not_counted() -> None:
    lines = [line("Conv", "Cast*scale"), line("Conv", "float16")]
    assert "bit planes: 1 of 1 layers" in told(lines)
    assert told([line("Conv", "float16")]) == ""


def test_packed_int2_and_embeddings_need_no_remark() -> None:
    assert told(weights="int2", target="ort") == ""
    assert told([line("Gather", "Cast*scale")]) == ""
