"""Whole runs of a transformer block: what of it computes in 8 bits, and as what onnxruntime runs the file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import balanced, model, weight

from comq_onnx import Recipe, quantize

BLOCK = """g (float[B,9,64] x) => (float[B,9,64] y) {
  l = LayerNormalization<axis = -1>(x, gain, shift)
  q0 = MatMul(l, Q) q1 = Add(q0, bq) q2 = Reshape(q1, heads) q = Transpose<perm = [0, 2, 1, 3]>(q2)
  k0 = MatMul(l, K) k1 = Add(k0, bk) k2 = Reshape(k1, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2)
  v0 = MatMul(l, V) v1 = Add(v0, bv) v2 = Reshape(v1, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2)
  s = MatMul(q, k) s1 = Mul(s, quarter) p = Softmax<axis = -1>(s1) o = MatMul(p, v)
  o1 = Transpose<perm = [0, 2, 1, 3]>(o) o2 = Reshape(o1, flat) o3 = MatMul(o2, O) o4 = Add(o3, bo)
  a = Add(o4, x)
  m = LayerNormalization<axis = -1>(a, gain, shift)
  u0 = MatMul(m, U) u = Add(u0, bu)
  d1 = Div(u, root) e1 = Erf(d1) a1 = Add(e1, one) m1 = Mul(u, a1) f = Mul(m1, half)
  w0 = MatMul(f, W) w = Add(w0, bw)
  y = Add(w, a)
}"""
READ = {"l", "o2", "m", "f"}
"""What the six products with weights read."""


def block(opset: int = 17) -> onnx.ModelProto:
    shapes = dict.fromkeys("QKVO", (64, 64)) | {"U": (64, 128), "W": (128, 64)}
    values = {n: balanced(weight(*shape, seed=i)) for i, (n, shape) in enumerate(shapes.items())}
    values |= {f"b{n.lower()}": weight(shape[1], seed=9 + i) for i, (n, shape) in enumerate(shapes.items())}
    numbers = {"quarter": 0.25, "root": 2**0.5, "one": 1.0, "half": 0.5}
    values |= {name: np.array(value, np.float32) for name, value in numbers.items()}
    values |= {"heads": np.array([0, 9, 4, 16]), "flat": np.array([0, 9, 64])}
    values |= {"gain": np.ones(64, np.float32), "shift": np.zeros(64, np.float32)}
    made = model(BLOCK, opset, **values)
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    return made


def tokens(count: int = 32, seed: int = 3) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 9, 64)).astype(np.float32)}


def run(source: onnx.ModelProto | Path, fed: dict[str, np.ndarray], optimized: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    file = str(source) if isinstance(source, Path) else source.SerializeToString()
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]).run(None, fed)[0]


def signal_to_noise(folder: Path) -> tuple[float, list[str]]:
    """dB on samples nobody calibrated with, and the operators that onnxruntime makes of the file."""
    fed = tokens(16, seed=11)
    float_ = run(block(), fed, folder / "float.onnx")
    noise = run(folder / "q.onnx", fed, folder / "optimized.onnx") - float_
    operators = [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
    return 10 * float(np.log10(np.square(float_).sum() / np.square(noise).sum())), operators


LIMITS = {"int8": 38.0, "int4": 24.0}


@pytest.mark.parametrize("weights", LIMITS)
@pytest.mark.parametrize("target", ["ort", "openvino", "web", "portable"])
def test_inputs_of_products_are_stored(target: str, weights: str, tmp_path: Path) -> None:
    recipe = Recipe(weights=weights, activations="int8", target=target, size_first=True)  # type: ignore[arg-type]
    report = quantize(block(), tmp_path / "q.onnx", tokens(), recipe)
    assert report.verification.ok, report.verification.checks
    assert {line.activations for line in report.lines} == {"8-bit"}
    assert set(report.activations) == READ
    kinds = {grid.kind.signed for grid in report.activations.values()}
    assert kinds == {target == "portable"}
    found, operators = signal_to_noise(tmp_path)
    assert found > LIMITS[weights]
    assert operators.count("MatMulIntegerToFloat") == 6


@pytest.mark.parametrize("weights", LIMITS)
@pytest.mark.parametrize("target", ["ort", "web"])
def test_inputs_of_products_are_rounded_on_the_fly(target: str, weights: str, tmp_path: Path) -> None:
    recipe = Recipe(weights=weights, activations="dynamic", target=target)  # type: ignore[arg-type]
    report = quantize(block(), tmp_path / "q.onnx", tokens(), recipe)
    assert report.verification.ok, report.verification.checks
    assert {line.form for line in report.lines} == {"MatMulInteger"}
    assert not report.activations
    found, operators = signal_to_noise(tmp_path)
    assert found > LIMITS[weights]
    assert "MatMul" in operators  # the two products of attention
    assert not {"MatMulInteger", "Gemm"} & set(operators)


@pytest.mark.parametrize("weights", LIMITS)
def test_products_as_onnxruntimes_own_operator(weights: str, tmp_path: Path) -> None:
    recipe = Recipe(weights=weights, matmulnbits=True, target="ort")  # type: ignore[arg-type]
    report = quantize(block(), tmp_path / "q.onnx", tokens(), recipe)
    assert report.verification.ok, report.verification.checks
    assert {line.form for line in report.lines} == {"MatMulNBits"}
    found, operators = signal_to_noise(tmp_path)
    assert found > LIMITS[weights]
    assert operators.count("MatMulNBits") == 6


def test_products_of_two_activations_are_stored_for_twin_ranges(tmp_path: Path) -> None:
    recipe = Recipe(weights="int8", activations="int8", target="ort", twin_ranges=True, size_first=True)
    report = quantize(block(), tmp_path / "q.onnx", tokens(), recipe)
    assert report.verification.ok, report.verification.checks
    assert set(report.activations) >= READ | {"q", "k", "v"}
    assert signal_to_noise(tmp_path)[0] > LIMITS["int8"]


@pytest.mark.parametrize(
    ("target", "activations"),
    [("ort", "int8"), ("openvino", "int8"), ("web", "int8"), ("portable", "int8"), ("ort", "dynamic")],
)
def test_seven_bits_of_weights_in_every_form(target: str, activations: str, tmp_path: Path) -> None:
    first = activations == "int8"
    recipe = Recipe("int8", activations=activations, target=target, reduce_range=True, size_first=first)  # type: ignore[arg-type]
    report = quantize(block(), tmp_path / "q.onnx", tokens(), recipe)
    assert report.verification.ok, report.verification.checks
    assert {line.grid for line in report.lines} == {"int7 channel"}
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    codes = [stored[f"{name}_quantized"].astype(int) for name in "QKVOUW"]
    assert all(array.min() >= -64 and array.max() <= 63 for array in codes)
    assert signal_to_noise(tmp_path)[0] > LIMITS["int8"] - 3
