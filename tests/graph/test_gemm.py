import numpy as np
import pytest
from graph.preparing import check, model, rand

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe

GEMM_CASES = [
    ("transA = 1, transB = 1, alpha = 0.5, beta = 2.0", "a", "w, b", (5, 2), (3, 5), (3,)),
    ("transB = 1", "a", "w, b", (2, 5), (3, 5), (1, 3)),
    ("transA = 1", "a", "w, b", (5, 2), (5, 3), ()),
    ("alpha = 2.0, beta = 0.0", "a", "w, b", (2, 5), (5, 3), (2, 3)),
    ("alpha = 2.0, transB = 1", "a", "w", (2, 5), (3, 5), ()),
    ("beta = 3.0", "a", "w, c", (2, 5), (5, 3), ()),
]


@pytest.mark.parametrize(("attrs", "left", "right", "a", "w", "b"), GEMM_CASES)
@pytest.mark.parametrize("opset", [11, 21])
def test_gemm_is_normalised(attrs, left, right, a, w, b, opset, same):
    weights = {"w": rand(*w), "b": rand(*b)} if "b" in right else {"w": rand(*w)}
    proto = model(
        f"y = Gemm <{attrs}> ({left}, {right})",
        f"float[{a[0]}, {a[1]}] a, float[2, 3] c",
        "float[2, 3] y",
        opset,
        **weights,
    )
    ready = check(proto, {"a": rand(*a), "c": rand(2, 3)}, same)
    gemm = next(node for node in ready.graph.nodes if node.op == "Gemm")
    assert gemm.attrs == {}
    layers, _ = find_layers(ready, Recipe())
    assert [(layer.op, layer.layout.kind, layer.layout.shape) for layer in layers] == [
        ("Gemm", "matmul", (5, 3))
    ]


def test_gemm_weight_shared_by_two_orientations(same):
    proto = model(
        "h = Gemm <transB = 1> (x, w) y = Gemm(h, w)", "float[2, 4] x", "float[2, 4] y", w=rand(3, 4)
    )
    ready = check(proto, {"x": rand(2, 4)}, same)
    shapes = [layer.layout.shape for layer in find_layers(ready, Recipe())[0]]
    assert shapes == [(4, 3), (3, 4)]


def test_a_gemm_of_activations_and_an_integer_gemm_are_left_alone(same):
    proto = model(
        "y = Gemm <transB = 1> (a, b) z = Gemm <transB = 1> (i, w)",
        "float[2, 4] a, float[3, 4] b, int32[2, 4] i",
        "float[2, 3] y, int32[2, 3] z",
        w=np.ones((3, 4), np.int32),
    )
    ready = prepare(load(proto), 0)
    assert [node.attrs for node in ready.graph.nodes] == [{"transB": 1}, {"transB": 1}]
