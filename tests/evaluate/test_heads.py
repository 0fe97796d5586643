"""Which outputs are taken for classes."""

import numpy as np
import pytest
from graphs import model, weight

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.closeness import Classes
from comq_onnx.evaluate.heads import classes_of

ROWS = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)


def head(output: str, nodes: str, asked=(), value=ROWS):
    proto = model(
        f"g (float[N, 4] x) => (float[N, 3] {output}) {{ {nodes} }}",
        w=weight(4, 3),
        b=np.ones(3, np.float32),
    )
    return classes_of(proto, {output: value}, asked)


@pytest.mark.parametrize(
    ("output", "nodes", "found"),
    [
        ("y", "y = MatMul(x, w)", True),
        ("y", "h = MatMul(x, w) y = Add(h, b)", True),
        ("y", "y = Gemm(x, w, b)", True),
        ("y", "h = Gemm(x, w, b) y = Identity(h)", True),
        ("y", "c = Abs(w) y = MatMul(x, c)", True),  # a weight that is computed from constants
        ("y", "h = MatMul(x, w) y = Tanh(h)", False),
        ("y", "h = MatMul(x, w) y = Add(h, h)", False),
        ("y", "t = Transpose(x) u = MatMul(x, t) y = MatMul(u, u)", False),
        ("embedding", "embedding = MatMul(x, w)", False),
        ("my_logits", "h = MatMul(x, w) my_logits = Tanh(h)", True),
    ],
)
def test_rows_of_a_linear_layer_are_logits(output, nodes, found):
    assert head(output, nodes) == ({output: Classes(1, "logits")} if found else {})


def test_what_was_asked_for_goes_first():
    assert head("y", "h = MatMul(x, w) y = Tanh(h)", ("y",)) == {"y": Classes(1, "logits")}
    assert head("y", "y = MatMul(x, w)", ("none",)) == {}
    shares = np.full((2, 4), 0.25, np.float32)
    assert head("y", "h = MatMul(x, w) y = Softmax(h)", ("y",), shares) == {"y": Classes(1, "probabilities")}


def test_an_output_that_is_not_there():
    with pytest.raises(
        ComqError, match="--classes: 'z' is no output that both models have; name one of 'y', or none"
    ):
        head("y", "y = MatMul(x, w)", ("z",))
