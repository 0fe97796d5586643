"""Channel scales moved into weights: the same outputs, and the division where it costs nothing."""

import numpy as np
import onnx
import pytest
from graph.preparing import model, ops, rand

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import Model, load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.graph.smooth import absorbs, smooth
from comq_onnx.graph.tensors import values_of
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer

K, N = 6, 4
SCALE = np.array([0.013, 0.7, 1.0, 1.9, 31.0, 240.0])
NORM = "h = LayerNormalization (x, g, b)"
APART = """m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) q = Mul (d, d) v = ReduceMean <axes = [-1]> (q)
  e = Add (v, eps) r = Sqrt (e) n = Div (d, r) s = Mul (n, g) h = Add (s, b)"""
OF_NORM = {"g": rand(K), "b": rand(K), "eps": np.array(1e-5, np.float32)}
READ = "y = MatMul (h, w)"


def ready_and_layers(proto: onnx.ModelProto, tensor: str) -> tuple[Model, list[Layer]]:
    """The prepared model, and its layers that read a tensor."""
    ready = prepare(load(proto), 17)
    found, _ = find_layers(ready, Recipe())
    return ready, [layer for layer in found if layer.input == tensor]


def smoothed(body: str, outputs: str, tensor: str, weights: dict[str, np.ndarray]):
    """A model, the same with `SCALE` moved, and where the division went."""
    given = {"w": rand(K, N), **weights}
    proto = model(body, f"float[3, {K}] x", outputs, 17, **given)
    ready, layers = ready_and_layers(proto, tensor)
    absorbed = absorbs(ready, layers)
    divided = smooth(ready, layers, SCALE)
    made = to_proto(ready)
    onnx.checker.check_model(made, full_check=True)
    assert absorbed == bool(divided.into)
    return proto, made, divided


def constants(made):
    return {c.name: onnx.numpy_helper.to_array(c) for c in made.graph.initializer}


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        (f"{NORM} {READ}", OF_NORM),
        (f"{APART} {READ}", OF_NORM),
        (f"h = Mul (x, g) {READ}", OF_NORM),
        (f"h = Mul (g, x) {READ}", OF_NORM),
        (f"u = MatMul (x, p) {READ.replace('h', 'u')}", {"p": rand(K, K)}),
        (f"u = MatMul (x, p) a = Add (b, u) h = Relu (a) {READ}", {"p": rand(K, K), "b": rand(K)}),
        (f"u = Gemm (x, p, b) h = LeakyRelu (u) {READ}", {"p": rand(K, K), "b": rand(1, K)}),
        (f"t = MatMul (x, o) s = Sigmoid (t) u = MatMul (x, p) h = Mul (s, u) {READ}",
         {"p": rand(K, K), "o": rand(K, K)}),
        (f"u = MatMul (x, p) a = Mul (u, c) h = Mul (a, g) {READ}",
         {"p": rand(K, K), "c": np.array(0.5, np.float32), "g": rand(K)}),
    ],
    ids=["norm", "norm apart", "mul", "mul left", "product", "relu", "leaky", "gated", "scaled"],
)  # fmt: skip
def test_what_makes_the_tensor_takes_the_division(body, weights, run):
    tensor = "u" if "(u, w)" in body else "h"
    proto, made, divided = smoothed(body, "float[3, 4] y", tensor, weights)
    assert divided.into
    assert divided.tensor == tensor
    assert ops(load(made)) == ops(prepare(load(proto), 17))
    same_to_rounding(proto, made, run)


@pytest.mark.parametrize(
    ("body", "outputs", "weights"),
    [
        (f"{NORM} {READ} z = Tanh (h)", "float[3, 4] y, float[3, 6] z", OF_NORM),
        (f"{APART} {READ} z = Tanh (s)", "float[3, 4] y, float[3, 6] z", OF_NORM),
        (f"{NORM} {READ}", "float[3, 4] y, float[3, 6] h", OF_NORM),
        (f"u = MatMul (x, p) h = Tanh (u) {READ}", "float[3, 4] y", {"p": rand(K, K)}),
        (f"h = Clip (x, lo, hi) {READ}", "float[3, 4] y",
         {"lo": np.array(0, np.float32), "hi": np.array(1, np.float32)}),
        (f"h = Mul (x, c) {READ}", "float[3, 4] y", {"c": np.array(0.5, np.float32)}),
        (f"h = Mul (x, x) {READ}", "float[3, 4] y", {}),
        (f"u = MatMul (x, p) h = Add (u, x) {READ}", "float[3, 4] y", {"p": rand(K, K)}),
        (f"u = Gemm (x, p, q) h = Relu (u) {READ}", "float[3, 4] y", {"p": rand(K, K), "q": rand(3, K)}),
        (f"h = LayerNormalization <axis = 0> (x, g, b) {READ}", "float[3, 4] y",
         {"g": rand(3, K), "b": rand(3, K)}),
        ("y = MatMul (x, w)", "float[3, 4] y", {}),
    ],
    ids=["residual", "inside", "output", "tanh", "clip", "scalar", "square", "sum", "matrix", "axis", "input"],  # noqa: E501
)  # fmt: skip
def test_elsewhere_a_mul_of_its_own_divides(body, outputs, weights, run):
    tensor = "h" if "h = " in body else "x"
    proto, made, divided = smoothed(body, outputs, tensor, weights)
    assert not divided.into
    assert divided.tensor == f"{tensor}_smoothed"
    assert ops(load(made)).count("Mul") == ops(load(proto)).count("Mul") + 1
    same_to_rounding(proto, made, run)


def same_to_rounding(proto, made, run):
    """Of outputs by their own size: what float32 sums of products may differ by."""
    feeds = {"x": rand(3, K)}
    assert [o.name for o in made.graph.output] == [o.name for o in proto.graph.output]
    for a, b in zip(run(proto, feeds), run(made, feeds), strict=True):
        assert np.abs(a - b).max() <= 4e-6 * np.abs(a).max()


def test_readers_share_scales_and_their_weights_are_multiplied():
    body = f"{NORM} y = MatMul (h, w) z = MatMul (h, k)"
    given = {"w": rand(K, N), "k": rand(K, 5), **OF_NORM}
    proto = model(body, f"float[3, {K}] x", f"float[3, {N}] y, float[3, 5] z", 17, **given)
    ready, layers = ready_and_layers(proto, "h")
    smooth(ready, layers, SCALE)
    found = constants(to_proto(ready))
    for name in ("w", "k"):
        np.testing.assert_allclose(found[name], given[name] * SCALE[:, None], rtol=1e-6)
    for name in ("g", "b"):
        np.testing.assert_allclose(found[name], given[name] / SCALE, rtol=1e-6)


def test_a_product_that_stays_as_it_is_keeps_the_tensor(run):
    body = f"{NORM} y = MatMul (h, w) z = MatMul (h, k)"
    proto = model(
        body, f"float[3, {K}] x", "float[3, 4] y, float[3, 5] z", 17, w=rand(K, N), k=rand(K, 5), **OF_NORM
    )
    ready, layers = ready_and_layers(proto, "h")
    divided = smooth(ready, layers[:1], SCALE)
    assert not divided.into
    same_to_rounding(proto, to_proto(ready), run)


def test_a_shared_gamma_is_copied(run):
    body = f"{NORM} y = MatMul (h, w) z = Mul (x, g)"
    proto, made, divided = smoothed(body, "float[3, 4] y, float[3, 6] z", "h", OF_NORM)
    assert divided.into
    same_to_rounding(proto, made, run)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
@pytest.mark.parametrize("alone", [False, True])
def test_other_types(kind, alone, run):
    """By powers of two the rounding of each number stays what it was."""
    name = {np.float16: "float16", np.float64: "double"}[kind]
    body = f"h = Mul (x, g) {READ}" + (" z = Neg (h)" if alone else "")
    outputs = f"{name}[3, 4] y" + (f", {name}[3, 6] z" if alone else "")
    given = {key: rand(*shape, dtype=np.float32).astype(kind) for key, shape in (("g", (K,)), ("w", (K, N)))}
    proto = model(body, f"{name}[3, {K}] x", outputs, 17, **given)
    ready, layers = ready_and_layers(proto, "h")
    divided = smooth(ready, layers, 2.0 ** np.arange(-2, 4))
    assert bool(divided.into) != alone
    made = to_proto(ready)
    assert all(values.dtype == kind for values in constants(made).values())
    feeds = {"x": rand(3, K).astype(kind)}
    for a, b in zip(run(proto, feeds), run(made, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * np.finfo(kind).eps, atol=4 * np.finfo(kind).eps)


def test_weights_are_not_computed_before_they_are_read():
    proto = model(f"{NORM} {READ}", f"float[3, {K}] x", "float[3, 4] y", 17, w=rand(K, N), **OF_NORM)
    ready, layers = ready_and_layers(proto, "h")
    smooth(ready, layers, SCALE)
    node = next(node for node in ready.graph.nodes if node.op == "MatMul")
    assert not isinstance(node.inputs[1]._values, np.ndarray)
    assert values_of(node.inputs[1]).shape == (K, N)
