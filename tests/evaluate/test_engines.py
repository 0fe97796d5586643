"""What is said and checked of TensorRT's engines."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model
from qdq_files import CONV, I8, MATMUL8

from comq_onnx import Recipe, quantize
from comq_onnx.errors import ComqError
from comq_onnx.evaluate.engines import engine_checks, engine_of, told
from comq_onnx.evaluate.parity import Limits, parity
from comq_onnx.run.tensorrt_ import Engine, Product, tensorrt_missing

GLYPHS = Path(__file__).parents[2] / "samples" / "glyphs"
BUILT = Engine("TensorRT for RTX 1.7", True, bytes=12_345, seconds=1.25)
TYPED = Engine(
    "TensorRT for RTX 1.7",
    True,
    bytes=12_345,
    seconds=1.25,
    products=(Product("a", ("int8", "int8")), Product("b", ("half", "half")), Product("c", ("int8", "int8"))),
    constants={"int8": 4096, "half": 64},
)
here = pytest.mark.skipif(bool(tensorrt_missing()), reason=tensorrt_missing())


def test_an_engine_in_words() -> None:
    assert told(BUILT) == "12,345 bytes, built in 1.2 s"
    assert told(TYPED) == (
        "12,345 bytes, built in 1.2 s; products: 1 half, 2 int8; "
        "weights and scales: 64 bytes half, 4,096 bytes int8"
    )
    assert told(Engine("TensorRT", False, "node 'n': no")) == "it refuses the file: node 'n': no"


def test_factors_of_two_types_are_both_named() -> None:
    mixed = Engine("T", True, products=(Product("a", ("half", "int4")),))
    assert mixed.computes_in() == {"half x int4": 1}


def test_a_refusal_fails_its_check_and_one_that_did_not_run_passes() -> None:
    (refused,) = engine_checks(Engine("TensorRT", False, "no"), [], 0.1)
    assert (refused.name, refused.ok) == ("TensorRT builds an engine", False)
    (built,) = engine_checks(Engine("TensorRT", True, not_run="no GPU"), [], 0.1)
    assert built.ok
    assert built.detail.endswith("; not run: no GPU")


@pytest.mark.parametrize(("shift", "ok"), [(0.0, True), (0.5, False)])
def test_outputs_are_compared_where_it_ran(shift: float, ok: bool) -> None:
    y = np.linspace(1, 2, 8, dtype=np.float32)
    ran = Engine("TensorRT for RTX 1.7", True, outputs=[{"y": y + np.float32(shift)}], device="a GPU")
    built, same = engine_checks(ran, [{"y": y}], 0.1)
    assert built.ok
    assert built.detail.endswith("; run on a GPU")
    assert (same.name, same.ok) == ("TensorRT = onnxruntime, as deployed", ok)


@here
@pytest.mark.tensorrt
def test_dynamic_axes_range_over_what_was_fed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(MATMUL8.proto(), path)
    for batches in ((), [{"x": np.zeros((n, 16), np.float16)} for n in (1, 5)]):
        assert engine_of(path, batches).error == ""


@here
@pytest.mark.tensorrt
def test_what_it_refuses_fails_the_check(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(CONV.but(z=np.array(3, I8)).proto(), path)
    (check,) = parity(path, [], ["tensorrt"], Limits(), [])
    assert not check.ok
    assert "Non-zero zero point" in check.detail


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("comq_onnx.evaluate.parity.tensorrt_missing", lambda: "it is not installed")
    (check,) = parity(tmp_path / "m.onnx", [], ["tensorrt"], Limits())
    assert (check.name, check.ok, check.detail) == ("TensorRT", True, "not looked at: it is not installed")


def test_a_package_that_does_not_work_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> Engine:
        raise ComqError("TensorRT makes no builder here")

    monkeypatch.setattr("comq_onnx.evaluate.parity.tensorrt_missing", lambda: "")
    monkeypatch.setattr("comq_onnx.evaluate.parity.engine_of", broken)
    (check,) = parity(tmp_path / "m.onnx", [], ["tensorrt"], Limits(), [])
    assert (check.ok, check.detail) == (True, "not looked at: TensorRT makes no builder here")


@here
@pytest.mark.tensorrt
@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_sample_computes_in_int8(weights: str, tmp_path: Path) -> None:
    recipe = Recipe(weights=weights, target="tensorrt", solver="rtn")  # pyright: ignore[reportArgumentType]
    out = tmp_path / "q.onnx"
    report = quantize(GLYPHS / "glyphs.onnx", out, GLYPHS / "calibration.npz", recipe)
    assert report.verification.ok
    check = report.verification.checks[-1]
    assert check.name.endswith("builds an engine")
    with np.load(GLYPHS / "test.npz") as test:
        found = engine_of(out, [{"image": test["image"][:8]}])
    stored = {line.name for line in report.lines if line.activations == "8-bit"}
    computed = {name for p in found.products if set(p.types) == {"int8"} for name in p.layer.split("+")}
    assert len(stored) > 25
    assert stored <= computed
    assert not stored & {p.layer for p in found.products if "half" in p.types}


@here
@pytest.mark.tensorrt
def test_int4_weights_are_int4_in_the_engine(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((128, 64), dtype=np.float32)
    proto = model("g (float[N, 128] x) => (float[N, 64] y) { y = MatMul(x, W) }", W=weight)
    data = {"x": rng.standard_normal((64, 128), dtype=np.float32)}
    out = tmp_path / "q.onnx"
    report = quantize(proto, out, data, Recipe(target="tensorrt", solver="rtn"))
    assert report.verification.ok
    assert engine_of(out).constants["int4"] == 128 * 64 // 2
