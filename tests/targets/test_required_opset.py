"""Opsets are raised no further than the recipe needs."""

import numpy as np
import pytest
from graphs import model, weight

from comq_onnx.graph.io import load
from comq_onnx.recipe import Recipe
from comq_onnx.targets import TARGETS

MATMUL = "g (float[B, 64] x) => (float[B, 8] y) { y = MatMul(x, W) }"
CONV = "g (float[B, 4, 5, 5] x) => (float[B, 8, 4, 4] y) { y = Conv<kernel_shape = [2, 2]>(x, W) }"
EXPECTED = [
    (Recipe(weights="int4"), "portable", 21),
    (Recipe(weights="int3"), "ort", 21),
    (Recipe(weights="int2"), "portable", 21),
    (Recipe(weights="int2"), "ort", 25),
    (Recipe(weights="int8"), "portable", 13),
    (Recipe(weights="int8", block_size="tensor"), "portable", 13),
    (Recipe(weights="int8", block_size="64"), "portable", 21),
]


@pytest.mark.parametrize(("recipe", "target", "opset"), EXPECTED)
def test_a_matmul(recipe, target, opset):
    assert TARGETS[target].required_opset(load(model(MATMUL, opset=9, W=weight(64, 8))), recipe) == opset


def test_a_conv_in_int8_needs_no_dequantize_linear():
    loaded = load(model(CONV, opset=9, W=weight(8, 4, 2, 2)))
    assert TARGETS["portable"].required_opset(loaded, Recipe(weights="int8")) == 7
    assert TARGETS["portable"].required_opset(loaded, Recipe(weights="int8", weight_form="dq")) == 13


def test_half_precision_scales_need_opset_19():
    loaded = load(model(MATMUL.replace("float", "float16"), opset=13, W=weight(64, 8, dtype=np.float16)))
    assert TARGETS["portable"].required_opset(loaded, Recipe(weights="int8")) == 19


@pytest.mark.parametrize(
    ("recipe", "target", "opset"),
    [
        (Recipe(weights="int8", rules=("a=int4",)), "portable", 21),
        (Recipe(weights="int8", rules=("a=float16", "b=int8")), "portable", 13),
        (Recipe(weights="int8", rules=("a=int8:32",)), "portable", 21),
        (Recipe(weights="int8", rules=("a=int8:tensor",)), "portable", 13),
        (Recipe(weights="int4", rules=("a=int2",)), "ort", 25),
        (Recipe(weights="int4", rules=("a=int8",)), "ort", 21),
        (Recipe(weights="int8", rules=("a=int4",)), "tensorrt", 21),
    ],
)
def test_the_narrowest_rule_decides(recipe, target, opset):
    assert TARGETS[target].required_opset(load(model(MATMUL, opset=9, W=weight(64, 8))), recipe) == opset
