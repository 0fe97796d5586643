"""The node that NaN or infinity comes from, on graphs where it is known."""

import numpy as np
import pytest
from graphs import model

from comq_onnx.run.astray import origin
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.tapped import TappedModel

ROW = np.array([[1.0, 4.0, -9.0]], np.float32)


def found(text: str, tensor: str, **weights: np.ndarray) -> str | None:
    made = model(text, **weights)
    for node in made.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    node = origin(TappedModel(made), tensor, {"x": ROW}, SessionOptions())
    return node and node.name


@pytest.mark.parametrize("tensor", ["a", "b", "c", "y"])
def test_nan_is_followed_to_where_it_begins(tensor: str) -> None:
    text = "g (float[1,3] x) => (float[1,3] y) { a = Sqrt(x) b = Neg(a) c = Relu(b) y = Add(c, x) }"
    assert found(text, tensor) == "Sqrt_a"


def test_a_mask_of_minus_infinity_is_not_the_origin() -> None:
    text = """g (float[1,3] x) => (float[1,3] y) {
        m = Neg(inf)  f = Add(x, m)  d = Sub(f, f)  y = Mul(d, x) }"""
    assert found(text, "y", inf=np.array([np.inf, 0, 0], np.float32)) == "Sub_d"


def test_infinity_is_followed_too() -> None:
    text = "g (float[1,3] x) => (float[1,3] y) { z = Sub(x, x) r = Reciprocal(z) y = Exp(r) }"
    assert found(text, "y") == "Reciprocal_r"


def test_what_is_finite_has_no_origin() -> None:
    assert found("g (float[1,3] x) => (float[1,3] y) { y = Neg(x) }", "y") is None
    assert found("g (float[1,3] x) => (float[1,3] y) { y = Neg(x) }", "x") is None


def test_integers_and_sequences_on_the_way() -> None:
    text = """g (float[1,3] x) => (float[1,3] y) {
        i = Cast<to=7>(x)  f = Cast<to=1>(i)  l = Log(f)  s = SequenceConstruct(l, l)
        k = Constant<value_int=0>()  e = SequenceAt(s, k)  y = Neg(e) }"""
    # A sequence cannot be looked into: the trail ends behind it.
    assert found(text, "l") == "Log_l"
    assert found(text, "y") == "SequenceAt_e"
