"""Which grid a layer gets, and what is said where it is not the one asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.targets import TARGETS
from comq_onnx.targets.blocks import dividing_block, near_block, stored_block


def layer(kind, *shape, group=1, op="MatMul"):
    return Layer("n", op, "W", "x", "y", layout_of(kind, shape, group), "float32")


RIGHT = layer("matmul", 768, 8)
CONV = layer("conv", 8, 64, 3, 3, op="Conv")

EXPECTED = [
    # layer, block size, bits, target, grid, whether something is said
    (RIGHT, "auto", 4, "portable", "int4 b128", False),
    (layer("matmul", 192, 8), "auto", 4, "portable", "int4 b64", False),
    (layer("matmul", 80, 8), "auto", 4, "portable", "int4 b16", False),
    (layer("matmul", 100, 8), "auto", 4, "portable", "int4 channel", False),
    (RIGHT, "auto", 8, "portable", "int8 channel", False),
    (RIGHT, "32", 8, "portable", "int8 b32", False),
    (RIGHT, "channel", 4, "portable", "int4 channel", False),
    (RIGHT, "tensor", 4, "portable", "int4 tensor", False),
    (layer("matmul", 80, 8), "32", 4, "portable", "int4 b20", True),
    (layer("matmul", 100, 8), "32", 4, "portable", "int4 b25", True),
    (layer("matmul", 120, 8), "32", 4, "portable", "int4 b30", True),
    (layer("matmul", 64, 8), "128", 4, "portable", "int4 b64", True),
    (layer("matmul", 40, 8), "128", 4, "portable", "int4 channel", True),
    (layer("matmul", 37, 8), "32", 4, "portable", "int4 channel", True),
    (layer("matmul", 1232, 256), "32", 4, "ort", "int4 b16", True),
    (layer("matmul", 1200, 64), "32", 4, "ort", "int4 b30", True),
    (layer("matmul", 240, 8), "32", 2, "ort", "int2 channel", True),
    (layer("conv", 8, 16, 3, 3, op="Conv"), "32", 4, "portable", "int4 b24", True),
    (layer("matmul", 80, 8), "auto", 2, "portable", "int2 b16", False),
    (layer("matmul", 80, 8), "auto", 2, "ort", "int2 channel", False),
    (RIGHT, "16", 2, "ort", "int2 b32", True),
    (RIGHT, "auto", 2, "ort", "int2 b128", False),
    (CONV, "auto", 4, "portable", "int4 channel", False),
    (CONV, "64", 4, "portable", "int4 b64", False),
    (CONV, "128", 4, "portable", "int4 b96", True),
    (layer("conv", 8, 1, 3, 3, group=8, op="Conv"), "32", 4, "portable", "int4 channel", True),
    (layer("matmul", 3, 64, 8), "auto", 4, "portable", "int4 channel", False),
    (layer("matmul_left", 8, 64), "auto", 4, "portable", "int4 channel", False),
    (layer("gather", 30, 16, op="Gather"), "auto", 8, "portable", "int8 channel", False),
    (layer("gather", 30, 16, op="Gather"), "16", 8, "portable", "int8 channel", True),
    (layer("gather", 30, 96, op="Gather"), "auto", 4, "portable", "int4 channel", False),
    (layer("gather", 30, 96, op="Gather"), "auto", 2, "openvino", "int2 channel", False),
    (layer("gather", 30, 96, op="Gather"), "channel", 3, "web", "int3 channel", False),
    (layer("gather", 30, 96, op="Gather"), "tensor", 4, "ort", "int4 channel", True),
    (layer("gather", 30, 96, op="Gather"), "32", 4, "ort", "int4 b32", False),
    (layer("gather", 30, 96, op="Gather"), "64", 2, "ort", "int2 b32", True),
    (layer("gather", 30, 24, op="Gather"), "32", 4, "ort", "int4 channel", True),
    (layer("gather", 30, 25, op="Gather"), "auto", 4, "ort", "int8 channel", True),
    (layer("gather", 30, 26, op="Gather"), "auto", 2, "ort", "int8 channel", True),
]


@pytest.mark.parametrize(("what", "block", "bits", "target", "grid", "said"), EXPECTED)
def test_grids(what, block, bits, target, grid, said):
    chosen, note = TARGETS[target].grid(what, Recipe(weights=f"int{bits}", block_size=block), bits)
    assert str(chosen) == grid
    assert bool(note) == said


def test_asymmetric_grids_keep_their_blocks():
    chosen, _ = TARGETS["portable"].grid(RIGHT, Recipe(symmetric=False), 4)
    assert chosen == Grid(4, False, "block", 128)


def test_a_dequantize_linear_before_a_conv_has_no_blocks():
    chosen, note = TARGETS["portable"].grid(CONV, Recipe(block_size="64", weight_form="dq"), 4)
    assert chosen == Grid(4)
    assert note


@given(rows=st.integers(1, 5000), exponent=st.integers(4, 8))
def test_a_dividing_block_is_the_largest_of_all(rows, exponent):
    found = dividing_block(rows, 2**exponent)
    fits = [2**e for e in range(4, exponent + 1) if rows % 2**e == 0]
    assert found == max(fits, default=0)


@given(rows=st.integers(1, 5000), at_most=st.integers(16, 256))
def test_a_near_block_is_the_largest_divisor_of_all(rows, at_most):
    assert near_block(rows, at_most) == max((b for b in range(8, at_most + 1) if rows % b == 0), default=0)


@given(rows=st.integers(1, 600), bits=st.sampled_from([2, 4]))
def test_what_is_stored_divides_the_rows(rows, bits):
    block = stored_block(rows, 1, bits)
    assert block in (0, 16, 32, 64, 128)
    assert not block or rows % block == 0
    assert block != 16 or bits == 4
