"""Functions that tensors are seen through, against the nodes they were made of."""

from math import erf

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import model, weight

from comq_onnx.graph.elementwise import function_behind

NUMBERS = {
    "root": np.float32(np.sqrt(2.0)),
    "half": np.array([0.5], np.float32),
    "one": np.float32(1.0),
    "three": np.float32(3.0),
    "six": np.float32(6.0),
    "zero": np.float32(0.0),
}
SEEN = {
    "silu": "s = Sigmoid(x) f = Mul(x, s)",
    "gelu": "d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) f = Mul(m, half)",
    "hardswish": "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) f = Div(m, six)",
    "relu6": "f = Clip(x, zero, six)",
    "chain": "t = Tanh(x) f = Relu(t)",
}
UNSEEN = {
    "a layer reads it": "s = Sigmoid(x) f = Mul(x, s) z = MatMul(x, W)",
    "it is an output": "s = Sigmoid(x) f = Mul(x, s) z = Identity(f)",
    "a product of it with another": "s = Sigmoid(x) m = Mul(x, b) f = Mul(m, s) z = Identity(f)",
    "not by elements": "f = Softmax(x) z = Identity(f)",
}


def network(nodes: str, outputs: str = "float[N,4] y") -> onnx.ModelProto:
    text = f"g (float[N,4] i, float[N,4] b) => ({outputs}) {{ x = MatMul(i, V) {nodes} y = MatMul(f, U) }}"
    words = nodes.replace("(", " ").replace(",", " ").replace(")", " ").split()
    used = {name: value for name, value in NUMBERS.items() if name in words}
    return model(text, V=weight(4, 4), U=weight(4, 4, seed=1), W=weight(4, 4, seed=2), **used)


@pytest.mark.parametrize("name", SEEN)
def test_the_function_is_what_the_nodes_compute(name: str) -> None:
    behind = function_behind(network(SEEN[name]), "x")
    assert behind is not None
    words = SEEN[name].replace("(", " ").replace(",", " ").replace(")", " ").split()
    numbers = {number: value for number, value in NUMBERS.items() if number in words}
    whole = model(f"g (float[n] x) => (float[n] f) {{ {SEEN[name]} }}", **numbers)
    values = np.linspace(-9, 9, 301, dtype=np.float32)
    found, wanted = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": values}
        )[0]
        for m in (behind, whole)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("why", UNSEEN)
def test_no_function_where_something_else_sees_the_tensor(why: str) -> None:
    outputs = {
        "it is an output": "float[N,4] y, float[N,4] x",
        "a layer reads it": "float[N,4] y, float[N,4] z",
    }.get(why, "float[N,4] y")
    assert function_behind(network(UNSEEN[why], outputs), "x") is None


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_numbers_of_other_types_are_taken_in_float32(kind: type) -> None:
    whole = network(SEEN["gelu"])
    for tensor in whole.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor).astype(kind)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    behind = function_behind(whole, "x")
    assert behind is not None
    session = onnxruntime.InferenceSession(behind.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.linspace(-4, 4, 101, dtype=np.float32)
    exact = [v * (1 + erf(v / 2**0.5)) / 2 for v in values.tolist()]
    (found,) = session.run(None, {"x": values})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=2e-3, atol=2e-3)


def test_exponents_stay_whole_numbers() -> None:
    text = "g (float[N,4] i) => (float[N,4] y) { x = MatMul(i, V) f = Pow(x, two) y = MatMul(f, U) }"
    made = model(text, V=weight(4, 4), U=weight(4, 4, seed=1), two=np.array([2], np.int64))
    behind = function_behind(made, "x")
    assert behind is not None
    session = onnxruntime.InferenceSession(behind.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.array([-3, 0, 0.5], np.float32)
    np.testing.assert_allclose(session.run(None, {"x": values})[0], values**2)
