"""Biases for positions and blocks, held to plain onnxruntime on the float and on the written file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import model, weight

from comq_onnx import Recipe, compensation, quantize
from comq_onnx.errors import ComqError

TOKENS = """g (float[B,9,32] x) => (float[B,9,32] y) {
  a = MatMul(x, w1)
  a1 = Add(a, b1)
  u = Relu(a1)
  c = MatMul(u, w2)
  y = Add(c, a1)
}"""
IMAGE = """g (float[B,4,9,7] x) => (float[B,12,5,4] y) {
  a = Conv<kernel_shape=[3,3],pads=[1,1,1,1],group=2>(x, w1, b1)
  u = Relu(a)
  y = Conv<kernel_shape=[3,3],pads=[1,1,1,1],strides=[2,2]>(u, w2)
}"""
BLOCK = """g (float[B,4,6,6] x) => (float[B,8,6,6] y) {
  s = Conv<kernel_shape=[1,1]>(x, w1)
  h = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(s, w2)
  e = Exp(h)
  r = Add(s, e)
  k = Relu(r)
  y = Conv<kernel_shape=[1,1]>(k, w3)
}"""
POSITION = Recipe(weights="int4", bias="position", inputs="quantized", batch_size=3)


def tokens() -> onnx.ModelProto:
    return named(model(TOKENS, w1=weight(32, 64), b1=weight(64), w2=weight(64, 64, seed=1)), wide=True)


def named(made: onnx.ModelProto, wide: bool = False) -> onnx.ModelProto:
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    if wide:
        made.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 64
    return made


def image() -> onnx.ModelProto:
    weights = {"w1": weight(2, 3, 3, 8).transpose(3, 0, 1, 2).copy(), "b1": weight(8)}
    return named(model(IMAGE, **weights, w2=weight(8, 3, 3, 12, seed=1).transpose(3, 0, 1, 2).copy()))


def samples(shape: tuple[int, ...], count: int = 10, twice: bool = True, pattern: float = 1.0) -> np.ndarray:
    """Noise around a pattern of the positions; the second half repeats the first, so that both agree."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((count // 2 if twice else count, *shape))
    found = pattern * rng.standard_normal(shape) + noise
    return np.concatenate([found, found] if twice else [found]).astype(np.float32)


def tensors(source: onnx.ModelProto | Path, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    """Tensors of a graph by plain onnxruntime, nothing fused."""
    proto = (
        onnx.load(source)
        if isinstance(source, Path)
        else onnx.ModelProto.FromString(source.SerializeToString())
    )
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value, np.float64) for value in session.run(names, {"x": x})]


def lack(float_: onnx.ModelProto, file: Path, name: str, x: np.ndarray) -> np.ndarray:
    """What the file's tensor lacks on average at each position, in parts of the error's root mean square."""
    (wanted,), (got,) = tensors(float_, [name], x), tensors(file, [name], x)
    return (wanted - got).mean(axis=0) / np.sqrt(((wanted - got) ** 2).mean())


@pytest.mark.parametrize(
    ("made", "shape", "layers"),
    [(tokens(), (9, 32), {"n_a": "a1", "n_c": "c"}), (image(), (4, 9, 7), {"n_a": "a", "n_y": "y"})],
    ids=["tokens", "image"],
)
def test_every_position_has_the_float_networks_mean(
    made: onnx.ModelProto, shape: tuple[int, ...], layers: dict[str, str], tmp_path: Path
) -> None:
    x = samples(shape)
    report = quantize(made, tmp_path / "q.onnx", {"x": x}, POSITION)
    assert report.verification.ok, report.verification
    for output in layers.values():
        assert np.abs(lack(made, tmp_path / "q.onnx", output, x)).max() < 1e-4
    quantize(made, tmp_path / "c.onnx", {"x": x}, Recipe(weights="int4", inputs="quantized", batch_size=3))
    for output in layers.values():
        assert np.abs(lack(made, tmp_path / "c.onnx", output, x)).max() > 0.05
    stored = {t.name: t for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    sizes = {}
    for name in layers:
        bias = stored[f"{name}_position_bias_value"]
        assert bias.dims[0] == 1
        sizes[name] = 4 * int(np.prod(bias.dims))
    assert {line.name: line.bias_bytes for line in report.lines} == sizes
    assert any(f"adds {sum(sizes.values()):,} bytes to 2 layers" in note for note in report.notes)


def test_products_with_a_position_bias_stay_fused(tmp_path: Path) -> None:
    report = quantize(
        tokens(), tmp_path / "q.onnx", {"x": samples((9, 32))}, replace(POSITION, size_first=True)
    )
    checks = {check.name: check for check in report.verification.checks}
    assert checks["weights fused"].detail == "no weight is recomputed"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("MatMulNBits") == 2
    assert "MatMul" not in ops


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_bias_has_the_layers_type(dtype: str, tmp_path: Path) -> None:
    text = TOKENS.replace("float[", f"{dtype if dtype == 'float16' else 'double'}[")
    kind: Any = np.dtype(dtype).type
    made = model(
        text, w1=weight(32, 64, dtype=kind), b1=weight(64, dtype=kind), w2=weight(64, 64, dtype=kind)
    )
    made = named(made, wide=True)
    report = quantize(made, tmp_path / "q.onnx", {"x": samples((9, 32)).astype(kind)}, POSITION)
    assert report.verification.ok
    stored = {t.name: t for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    bias = stored["n_a_position_bias_value"]
    assert onnx.helper.tensor_dtype_to_np_dtype(bias.data_type) == kind


def test_noise_is_not_taken_for_a_pattern(tmp_path: Path) -> None:
    """Samples without a pattern of positions: held out ones are no worse off than with the channel bias."""
    x, new = np.split(samples((9, 32), 80, twice=False, pattern=0.0), [16])
    errors = {}
    for bias in ("channel", "position"):
        recipe = Recipe(weights="int4", bias=bias, inputs="quantized")  # type: ignore[arg-type]
        report = quantize(tokens(), tmp_path / "q.onnx", {"x": x}, recipe)
        (wanted,), (got,) = tensors(tokens(), ["a1"], new), tensors(tmp_path / "q.onnx", ["a1"], new)
        errors[bias] = ((wanted - got) ** 2).mean()
    assert errors["position"] <= 1.001 * errors["channel"]
    assert any("do not agree on more: 'n_a'" in note for note in report.notes)


@pytest.mark.parametrize(
    ("text", "data", "why"),
    [
        ("g (float[B,32] x) => (float[B,32] y) { y = MatMul(x, w) }", (10, 32), "no axis of positions"),
        ("g (float[B,1,32] x) => (float[B,1,32] y) { y = MatMul(x, w) }", (10, 1, 32), "one position only"),
        (
            "g (float[B,9,32] x) => (float[F,32] y) { z = Reshape(x, s) y = MatMul(z, w) }",
            (10, 9, 32),
            "no axis of positions",
        ),
        (
            "g (float[B,9,32] x) => (float[9,B,32] y) { z = Transpose<perm=[1,0,2]>(x) y = MatMul(z, w) }",
            (10, 9, 32),
            "not that of the samples",
        ),
    ],
    ids=["matrix", "one position", "joined", "positions first"],
)
def test_layers_without_positions_say_why(text: str, data: tuple[int, ...], why: str, tmp_path: Path) -> None:
    extra = {"s": np.array([-1, 32])} if "Reshape" in text else {}
    made = model(text, w=weight(32, 32), **extra)
    recipe = Recipe(weights="int8", bias="position", inputs="quantized", batch_size=5)
    report = quantize(made, tmp_path / "q.onnx", {"x": samples(data[1:], data[0])}, recipe)
    assert report.verification.ok
    assert any(why in note for note in report.notes), report.notes


def test_shapes_that_differ_and_tensors_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("g (float[B,T,32] x) => (float[B,T,32] y) { y = MatMul(x, w) }", w=weight(32, 32))
    rows = [{"x": samples((n, 32), 2)} for n in (4, 5, 6)]
    report = quantize(made, tmp_path / "q.onnx", rows, POSITION)
    assert any("shapes differ among samples" in note for note in report.notes)
    report = quantize(made, tmp_path / "q.onnx", {"x": samples((4, 32))}, POSITION)
    assert any("samples' shape only" in note for note in report.notes)
    monkeypatch.setattr(compensation, "LIMIT", 127)
    report = quantize(made, tmp_path / "q.onnx", {"x": samples((4, 32))}, POSITION)
    assert any("more than 127 numbers" in note for note in report.notes)


@pytest.mark.parametrize("bias", ["position", "block"])
def test_the_parallel_mode_refuses(bias: Any, tmp_path: Path) -> None:
    with pytest.raises(ComqError, match="--inputs quantized"):
        quantize(tokens(), tmp_path / "q.onnx", {"x": samples((9, 32))}, Recipe(bias=bias, inputs="float"))


def test_a_block_has_the_float_networks_mean_and_later_layers_see_it(tmp_path: Path) -> None:
    weights = {
        "w1": weight(4, 8).T.reshape(8, 4, 1, 1).copy(),
        "w3": weight(8, 8, seed=2).reshape(8, 8, 1, 1),
    }
    made = named(model(BLOCK, w2=weight(8, 3, 3, 8, seed=1).transpose(3, 0, 1, 2).copy(), **weights))
    x = samples((4, 6, 6))
    found = {}
    for bias in ("channel", "block"):
        recipe = Recipe(weights="int3", bias=bias, inputs="quantized", batch_size=3)  # type: ignore[arg-type]
        report = quantize(made, tmp_path / "q.onnx", {"x": x}, recipe)
        assert report.verification.ok
        found[bias] = {n: lack(made, tmp_path / "q.onnx", n, x).mean(axis=(1, 2)) for n in ("r", "y")}
    assert np.abs(found["channel"]["r"]).max() > 0.02
    assert np.abs(found["block"]["r"]).max() < 1e-5
    # The last layer's own bias was set on the level it sees in the file.
    assert np.abs(found["block"]["y"]).max() < 1e-4
    assert any("adds 32 bytes behind 1 of 1 residual Adds" in note for note in report.notes)
    assert "n_r_block_bias_value" in {t.name for t in onnx.load(tmp_path / "q.onnx").graph.initializer}


def test_a_layer_added_to_what_drifts_brings_the_sum_to_the_float_networks_mean(tmp_path: Path) -> None:
    """What the layer is added to has no bias for positions of its own: behind the Tanh it drifts."""
    text = """g (float[B,9,32] x) => (float[B,9,32] y) {
      a = MatMul(x, w1)
      t = Tanh(a)
      c = MatMul(t, w2)
      y = Add(c, t)
    }"""
    made = named(model(text, w1=weight(32, 32), w2=weight(32, 32, seed=1)))
    x = samples((9, 32))
    report = quantize(made, tmp_path / "q.onnx", {"x": x}, replace(POSITION, weights="int3"))
    assert report.verification.ok
    assert np.abs(lack(made, tmp_path / "q.onnx", "t", x)).max() > 0.01
    assert np.abs(lack(made, tmp_path / "q.onnx", "y", x)).max() < 1e-4
