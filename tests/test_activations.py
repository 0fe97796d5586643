"""Whole runs with 8-bit activations: small networks to each target, and the layers that are spared."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import balanced, model, weight

from comq_onnx import ComqError, Recipe, quantize
from comq_onnx.activations import grouped
from comq_onnx.planning import open_run
from comq_onnx.records import Placed
from comq_onnx.sensitivity import MOST, SHARE

CONV = """g (float[B,3,16,16] x) => (float[B,10] y) {
  c0 = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, A)
  s0 = Sigmoid(c0)
  r0 = Mul(c0, s0)
  c1 = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r0, C)
  r1 = Relu(c1)
  c2 = Conv<kernel_shape = [1, 1]>(r1, D)
  a = Add(c2, r0)
  r2 = Relu(a)
  p = GlobalAveragePool(r2)
  f = Flatten(p)
  y = Gemm(f, E, e)
}"""
TOKENS = """g (float[B,9,64] x) => (float[B,9,64] y) {
  u = MatMul(x, U)
  v = Add(u, b)
  h = Relu(v)
  m = MatMul(h, M)
  t = Tanh(m)
  d = MatMul(t, D)
  w = Add(d, c)
  y = Add(w, x)
}"""

TOO_FEW = 7
"""Samples, 63 tokens: no channel scales are chosen from them, which would make a huge channel harmless"""


def named(made: onnx.ModelProto) -> onnx.ModelProto:
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    return made


def conv_net() -> onnx.ModelProto:
    shapes = {"A": (16, 3, 3, 3), "C": (16, 16, 3, 3), "D": (16, 16, 1, 1), "E": (16, 10)}
    values = {name: weight(*shape, seed=len(name) + i) for i, (name, shape) in enumerate(shapes.items())}
    for name in "ACD":
        values[name] *= np.float32(np.sqrt(values[name].shape[0] / 4))
    return named(model(CONV, 17, e=weight(10, seed=9), **values))


def token_net() -> onnx.ModelProto:
    products = {"U": weight(64, 96), "M": weight(96, 96, seed=5), "D": weight(96, 64, seed=2)}
    values = {name: balanced(value) for name, value in products.items()}
    values |= {"b": weight(96, seed=1), "c": weight(64, seed=3)}
    return named(model(TOKENS, 17, **values))


def images(count: int = 48) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(2).standard_normal((count, 3, 16, 16))
    return {"x": np.cumsum(noise, axis=-1).astype(np.float32) / 3}


def tokens(count: int = 48) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).standard_normal((count, 9, 64)).astype(np.float32)}


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("target", ["ort", "openvino", "web"])
def test_a_conv_net_computes_in_8_bits(target: str, weights: str, tmp_path: Path) -> None:
    recipe = Recipe(weights=weights, activations="int8", target=target, size_first=True)  # type: ignore[arg-type]
    report = quantize(conv_net(), tmp_path / "q.onnx", images(), recipe)
    assert report.verification.ok, report.verification.checks
    assert {line.activations for line in report.lines} == {"8-bit"}
    assert {line.form for line in report.lines} == {"int8 kernel"}
    assert {"x", "r1"} <= set(report.activations)
    (fidelity,) = report.verification.fidelity
    assert fidelity.sqnr_db is not None
    assert fidelity.sqnr_db > (25 if weights == "int8" else 15)


@pytest.mark.parametrize("target", ["ort", "openvino", "web", "portable"])
def test_products_compute_in_8_bits(target: str, tmp_path: Path) -> None:
    recipe = Recipe(weights="int8", activations="int8", target=target, size_first=True)  # type: ignore[arg-type]
    report = quantize(token_net(), tmp_path / "q.onnx", tokens(), recipe)
    assert report.verification.ok, report.verification.checks
    assert [line.activations for line in report.lines] == ["8-bit"] * 3
    assert set(report.activations) == {"x", "h", "t"}
    (fidelity,) = report.verification.fidelity
    assert fidelity.sqnr_db is not None
    assert fidelity.sqnr_db > 30


@pytest.mark.parametrize("options", [{"activations": "dynamic"}, {"matmulnbits": True, "weights": "int4"}])
def test_onnxruntimes_own_forms_are_verified(options: dict, tmp_path: Path) -> None:
    recipe = Recipe(**{"weights": "int8", "target": "ort", **options})
    report = quantize(token_net(), tmp_path / "q.onnx", tokens(), recipe)
    assert report.verification.ok, report.verification.checks
    form = "MatMulNBits" if recipe.matmulnbits else "MatMulInteger"
    assert {line.form for line in report.lines} == {form}


def test_seven_bits_are_asked_for_by_reduce_range(tmp_path: Path) -> None:
    recipe = Recipe(weights="int8", activations="int8", target="ort", reduce_range=True)
    report = quantize(token_net(), tmp_path / "q.onnx", tokens(), recipe)
    assert {line.grid for line in report.lines} == {"int7 channel"}
    stored = onnx.load(tmp_path / "q.onnx").graph.initializer
    codes = [t for t in stored if t.name in ("U_quantized", "D_quantized")]
    assert len(codes) == 2
    assert all(np.abs(onnx.numpy_helper.to_array(t).astype(int)).max() <= 64 for t in codes)
    assert not [note for note in report.notes if "ORT-N01" in note]


def test_values_that_make_most_of_the_error_are_spared(tmp_path: Path) -> None:
    """One huge entry in the input leaves the others few codes; without 8 bits there the file is closer."""
    data = tokens(TOO_FEW)
    data["x"][:, :, 0] *= 60
    files = {}
    for size_first in (False, True):
        recipe = Recipe(weights="int8", activations="int8", target="ort", size_first=size_first)
        files[size_first] = quantize(token_net(), tmp_path / f"{size_first}.onnx", data, recipe)
    spared = [line for line in files[False].lines if "of the error" in line.activations]
    assert [line.name for line in spared] == ["n_u"]
    assert not files[False].blemishes
    fidelity = [files[key].verification.fidelity[0].sqnr_db or 0.0 for key in (False, True)]
    assert fidelity[0] > fidelity[1] + 3
    assert 0 < SHARE < 1
    assert 0 < MOST < 1


def test_what_tensorrt_is_spared_stays_float_altogether(tmp_path: Path) -> None:
    data = tokens(TOO_FEW)
    data["x"][:, :, 0] *= 60
    recipe = Recipe(weights="int8", activations="int8", target="tensorrt")
    report = quantize(token_net(), tmp_path / "q.onnx", data, recipe)
    assert [line.name for line in report.kept] == ["n_u"]
    assert "of the error" in report.kept[0].reason
    assert [line.activations for line in report.quantized] == ["8-bit"] * 2
    assert set(report.activations) == {"h", "t"}


def test_a_portable_conv_net_is_refused_in_one_sentence(tmp_path: Path) -> None:
    recipe = Recipe(weights="int8", activations="int8")
    with pytest.raises(ComqError, match="--target ort, openvino or tensorrt") as caught:
        quantize(conv_net(), tmp_path / "q.onnx", images(), recipe)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"activations": "dynamic"}, "--activations dynamic"),
        ({"activations": "dynamic", "target": "openvino"}, "--activations dynamic"),
        ({"matmulnbits": True}, "--matmulnbits"),
        ({"matmulnbits": True, "target": "web"}, "--matmulnbits"),
    ],
)
def test_what_a_target_has_no_form_for_is_said(options: dict, flag: str) -> None:
    with pytest.raises(ComqError, match=flag):
        open_run(token_net(), tokens(), Recipe(**options))


def test_values_of_a_group_stay_in_order() -> None:
    made = [Placed(name, None, group) for name, group in (("a", "a"), ("b", "b"), ("c", "a"))]
    assert [[value.tensor for value in members] for members in grouped(made)] == [["a", "c"], ["b"]]
