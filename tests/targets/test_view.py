"""What a view knows of constants and of readers, across graphs inside graphs."""

import numpy as np
import pytest
from graphs import model

from comq_onnx.targets.view import View, named

NET = """g (float[4] x, bool c) => (float[4] y) {
  k = Identity(w)
  two = Constant<value_floats = [2.0, 2.0, 2.0, 2.0]>()
  m = Mul(k, two)
  f = Cast<to=1>(m)
  n = Mul(x, m)
  t = Constant<value = bool {1}>()
  i = If(t) <then_branch = a () => (float[4] u) { u = Add(x, k) },
            else_branch = b () => (float[4] v) { v = Neg(k) }>
  y = Add(n, i)
}"""
WEIGHT = np.arange(4, dtype=np.float32)


@pytest.fixture
def view() -> View:
    return View(model(NET, opset=21, ir_version=10, w=WEIGHT))


def test_what_is_computed_from_constants_alone(view: View) -> None:
    outer, inner = view.scopes[0], view.scopes[1]
    constants = {name for name in (*"wkmfntiyxc", "two") if view.is_constant(name, outer)}
    assert constants == {"w", "k", "two", "m", "f", "t"}  # i is not: a branch of it reads x
    assert view.is_constant("k", inner)
    assert not view.is_constant("u", inner)


def test_values_are_looked_for_through_what_only_moves_them(view: View) -> None:
    outer, inner = view.scopes[0], view.scopes[1]
    np.testing.assert_array_equal(view.value("k", outer), WEIGHT)
    np.testing.assert_array_equal(view.value("k", inner), WEIGHT)
    np.testing.assert_array_equal(view.value("two", outer), np.full(4, 2, np.float32))
    assert view.value("f", outer) is None  # the product is computed
    assert view.value("x", outer) is None


def test_readers_are_found_in_graphs_inside(view: View) -> None:
    assert {named(node) for node, _ in view.readers("k", view.scopes[0])} == {"m", "u", "v"}
    assert {named(node) for node, _ in view.readers("u", view.scopes[1])} == set()
