"""Neighbours on graphs written by hand, and which of them can be solved together."""

import numpy as np
import pytest
from graphs import model, weight

from comq_onnx.graph.adjacent import Pair, adjacent
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe

W = {"A": weight(4, 6), "B": weight(6, 5, seed=1)}
K = {"A": weight(6, 4, 3, 3), "B": weight(5, 6, 1, 1, seed=1)}


def pairs_of(text: str, opset: int = 20, **weights: np.ndarray) -> list[Pair]:
    ready = prepare(load(model(text, opset, **weights)), opset)
    layers, _ = find_layers(ready, Recipe())
    return adjacent(to_proto(ready).graph, layers)


def one(text: str, opset: int = 20, **weights: np.ndarray) -> Pair:
    (pair,) = pairs_of(text, opset, **weights)
    return pair


@pytest.mark.parametrize(
    "between",
    ["z = Relu(a)", "z = Gelu(a)", "z = HardSwish(a)", "s = Sigmoid(a) z = Mul(a, s)", "z = Identity(a)"]
    + ["b = Add(a, bias) z = LeakyRelu(b)", "b = Mul(bias, a) c = Relu(b) z = Sub(c, bias)"],
)
def test_elementwise_nodes_and_constants_may_lie_between(between):
    text = f"g (float[n, 4] x) => (float[n, 5] y) {{ a = MatMul(x, A) {between} y = MatMul(z, B) }}"
    pair = one(text, **W, bias=np.full(6, 0.3, np.float32))
    assert pair.refusal == ""
    made = {"a"} | {node.output[0] for node in pair.nodes}
    for node in pair.nodes:  # in an order that can be run
        assert set(node.input) - made <= {"bias"} | {n for m in pair.nodes for n in m.output} - {"z"}


def test_a_convolution_with_clip_before_a_pointwise_one():
    text = """g (float[n, 4, 8, 8] x) => (float[n, 5, 6, 6] y)
    { a = Conv(x, A) z = Clip(a, low, high) y = Conv(z, B) }"""
    pair = one(text, **K, low=np.float32(0), high=np.float32(6))
    assert pair.refusal == ""
    assert [node.op_type for node in pair.nodes] == ["Clip"]


def test_a_depthwise_layer_first_can_and_a_depthwise_layer_second_cannot():
    text = """g (float[n, 6, 8, 8] x) => (float[n, 5, 6, 6] y)
    { p = Conv(x, P) z = Relu(p) a = Conv<group = 6>(z, D) w = Relu(a) y = Conv(w, B) }"""
    first, second = pairs_of(text, P=weight(6, 6, 1, 1), D=weight(6, 1, 3, 3, seed=2), B=K["B"])
    assert "apart" in first.refusal
    assert second.refusal == ""


@pytest.mark.parametrize(
    ("body", "outputs", "named"),
    [
        ("a = MatMul(x, A) z = Relu(a) y = MatMul(z, B) s = ReduceSum(a)", "float[n, 5] y, float s", "a"),
        ("a = MatMul(x, A) z = Relu(a) y = MatMul(z, B) s = ReduceSum(z)", "float[n, 5] y, float s", "z"),
        ("a = MatMul(x, A) z = Relu(a) y = MatMul(z, B)", "float[n, 5] y, float[n, 6] a", "a"),
        ("a = MatMul(x, A) z = Relu(a) y = MatMul(z, B)", "float[n, 5] y, float[n, 6] z", "z"),
        ("a = MatMul(x, A) z = Softmax(a) y = MatMul(z, B)", "float[n, 5] y", "Softmax"),
        ("a = MatMul(x, A) z = Add(a, other) y = MatMul(z, B)", "float[n, 5] y", "other"),
    ],
)
def test_what_goes_elsewhere_or_comes_from_there_disqualifies(body, outputs, named):
    pair = one(f"g (float[n, 4] x, float[n, 6] other) => ({outputs}) {{ {body} }}", **W)
    assert (pair.first != pair.second, pair.nodes) == (True, ())
    assert named in pair.refusal


def test_a_fork_after_the_first_layer_makes_two_neighbours_and_neither_can():
    text = """g (float[n, 4] x) => (float[n, 5] y, float[n, 5] u)
    { a = MatMul(x, A) y = MatMul(a, B) u = MatMul(a, C) }"""
    pairs = pairs_of(text, **W, C=weight(6, 5, seed=2))
    assert len(pairs) == 2
    assert all("too" in pair.refusal for pair in pairs)


def test_a_layer_behind_a_residual_addition_has_two_neighbours():
    text = """g (float[n, 4] x) => (float[n, 5] y)
    { a = MatMul(x, A) b = MatMul(a, S) c = Add(a, b) y = MatMul(c, B) }"""
    pairs = pairs_of(text, **W, S=weight(6, 6, seed=2))
    assert len(pairs) == 3
    assert all(pair.refusal for pair in pairs)


def test_the_other_operand_of_the_second_layer_must_be_its_weight():
    text = """g (float[2, 4, 8] x) => (float[2, 4, 4] y)
    { a = MatMul(x, P) z = Relu(a) t = Transpose<perm = [0, 2, 1]>(z) y = MatMul(z, t) }"""
    assert pairs_of(text, P=weight(8, 8)) == []
