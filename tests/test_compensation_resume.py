"""Runs with biases for positions or blocks that were broken off come out the same to the byte."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import model, weight

from comq_onnx import Recipe, compensation, quantize

NET = """g (float[B,5,16] x) => (float[B,5,16] y) {
  a = MatMul(x, w1)
  e = Exp(a)
  h = MatMul(e, w2)
  n = Tanh(h)
  r = Add(a, n)
  u = Relu(r)
  c = MatMul(u, w3)
  m = Sigmoid(c)
  s = Add(r, m)
  y = Mul(s, s)
}"""


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    made = model(NET, w1=weight(16, 16), w2=weight(16, 16, seed=1), w3=weight(16, 16, seed=2))
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    return made


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    once = rng.standard_normal((5, 16)) + 0.5 * rng.standard_normal((6, 5, 16))
    return {"x": np.concatenate([once, once]).astype(np.float32)}


@pytest.mark.parametrize(
    ("bias", "files"), [(bias, n) for bias, most in (("position", 3), ("block", 5)) for n in range(1, most)]
)
def test_a_run_that_goes_on_ends_in_the_same_file(
    net: onnx.ModelProto, data: dict[str, np.ndarray], tmp_path: Path, bias: Any, files: int
) -> None:
    recipe, folder = Recipe(weights="int3", bias=bias, inputs="quantized", batch_size=4), tmp_path / "kept"
    whole = quantize(net, tmp_path / "whole.onnx", data, recipe)
    stored = [tensor.name for tensor in onnx.load(tmp_path / "whole.onnx").graph.initializer]
    assert sum(f"_{bias}_bias" in name for name in stored) == (3 if bias == "position" else 2)

    def stop(stage: str, done: int, total: int) -> None:
        if len([*folder.glob("*.layer"), *folder.glob("*.block")]) >= files:
            raise RuntimeError("the light went out")

    with pytest.raises(RuntimeError, match="light"):
        quantize(net, tmp_path / "resumed.onnx", data, recipe, stop, folder)
    report = quantize(net, tmp_path / "resumed.onnx", data, recipe, resume=folder)
    assert (tmp_path / "resumed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert [line.bias_bytes for line in report.lines] == [line.bias_bytes for line in whole.lines]


@pytest.mark.parametrize("bias", ["position", "block"])
def test_what_is_known_is_not_measured_again(
    net: onnx.ModelProto,
    data: dict[str, np.ndarray],
    tmp_path: Path,
    bias: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, folder = Recipe(weights="int3", bias=bias, inputs="quantized", batch_size=4), tmp_path / "kept"
    quantize(net, tmp_path / "whole.onnx", data, recipe, resume=folder)
    for name in ("block_bias", "position_means"):
        monkeypatch.setattr(compensation, name, None)
    quantize(net, tmp_path / "again.onnx", data, recipe, resume=folder)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    monkeypatch.undo()
    for path in sorted(folder.glob("*.block" if bias == "block" else "*.layer")):
        path.write_bytes(path.read_bytes()[:-1])
        quantize(net, tmp_path / "again.onnx", data, recipe, resume=folder)
        assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
