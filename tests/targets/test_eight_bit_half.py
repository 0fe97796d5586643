"""Q/DQ pairs around float16 tensors: scales have the type of what they scale, which files seldom say."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx import TensorProto, numpy_helper
from targets.storing import outputs, through

from comq_onnx import Recipe, quantize
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.locate import names_in
from comq_onnx.records import ActivationKind, Placed, ValueGrid
from comq_onnx.targets.eight_bit import store_activations
from comq_onnx.targets.placement import Placement, Stored

INT8 = ActivationKind(signed=True, symmetric=True)
NET = """g ({kind}[B,3,16,16] x) => ({kind}[B,16,16,16] y) {{
  c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, A)
  r = Relu(c)
  d = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r, C)
  s = Relu(d)
  y = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(s, D)
}}"""
MIXED = """g (float[B,8] x) => (float[B,8] y) {
  h = Cast<to = 10>(x) a = Mul(h, two) b = Neg(a) w = Cast<to = 1>(b) v = Exp(w) y = Neg(v)
}"""


def net(kind: str, dtype: type) -> onnx.ModelProto:
    shapes = {"A": (16, 3, 3, 3), "C": (16, 16, 3, 3), "D": (16, 16, 3, 3)}
    weights = {n: (2 * weight(*shape, seed=i)).astype(dtype) for i, (n, shape) in enumerate(shapes.items())}
    made = model(NET.format(kind=kind), 21, 10, **weights)
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    return made


def stored(proto: onnx.ModelProto, grids: dict[str, ValueGrid]) -> onnx.ModelProto:
    found, values = load(proto), tuple(Placed(name, None, name) for name in grids)
    store_activations(found, Stored(Placement(values), grids), False, names_in(found))
    made = to_proto(found)
    onnx.checker.check_model(made, full_check=True)
    return made


def scale_types(made: onnx.ModelProto) -> dict[str, int]:
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    linears = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    return {node.input[0]: kinds[node.input[1]] for node in linears}


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("float", np.float32)])
def test_a_scale_has_the_type_of_its_tensor(kind: str, dtype: type) -> None:
    made = stored(net(kind, dtype), {name: ValueGrid(0.0625, 0, INT8) for name in "xrs"})
    wanted = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.FLOAT
    assert scale_types(made) == dict.fromkeys("xrs", wanted)


def test_types_are_told_tensor_by_tensor() -> None:
    """Both types in one graph; onnxruntime computes what the codes say."""
    grids = {name: ValueGrid(0.0625, 0, INT8) for name in "abwv"}
    made = stored(model(MIXED, 21, 10, two=np.array(2, np.float16)), grids)
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    assert scale_types(made) == {"a": half, "b": half, "w": single, "v": single}
    x = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    a = through(x.astype(np.float16) * np.float16(2), grids["a"])
    w = through(through(-a, grids["b"]), grids["w"])
    expected = -through(np.exp(w), grids["v"])
    for optimize in (False, True):
        np.testing.assert_array_equal(outputs(made, {"x": x}, optimize)[0], expected)


def test_a_float16_model_becomes_a_tensorrt_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).standard_normal((32, 3, 16, 16))
    data = {"x": (np.cumsum(noise, axis=-1) / 3).astype(np.float16)}
    recipe = Recipe(weights="int8", activations="int8", target="tensorrt", size_first=True)
    report = quantize(net("float16", np.float16), tmp_path / "q.onnx", data, recipe)
    assert report.verification.ok, report.verification.checks
    assert [line.activations for line in report.quantized] == ["8-bit"] * 3
    assert set(report.activations) == {"x", "r", "s"}
    made = onnx.load(tmp_path / "q.onnx")
    assert set(scale_types(made).values()) == {TensorProto.FLOAT16}
    written = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type == "QuantizeLinear":
            assert float(written[node.input[1]]) == report.activations[node.input[0]].scale
