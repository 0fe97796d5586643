"""Capacities and the pairs they choose, against numbers worked out by hand."""

import math

import pytest

from comq_onnx.allocate.modcap import differing, modcap, modcap_from_losses
from comq_onnx.graph.adjacent import Pair
from comq_onnx.grid import Grid
from comq_onnx.records import ConvGeometry, Layer, Layout


def conv(name: str, shape: tuple[int, ...], stride: int) -> Layer:
    geometry = ConvGeometry(shape[2:], (stride, stride), (1, 1), (0, 0, 0, 0), "NOTSET", 1)
    layout = Layout("conv", shape, 1, math.prod(shape[1:]), shape[0])
    return Layer(name, "Conv", name + "_w", "x", "y", layout, "float32", geometry)


def product(name: str, rows: int, cols: int) -> Layer:
    return Layer(
        name, "MatMul", name + "_w", "x", "y", Layout("matmul", (rows, cols), 1, rows, cols), "float32"
    )


def test_capacity_is_weights_times_bits_and_1_6_at_stride_2():
    layers = [conv("stem", (8, 3, 3, 3), 2), conv("body", (16, 8, 3, 3), 1), product("head", 16, 10)]
    grids = {"stem": Grid(8), "body": Grid(4), "head": Grid(2)}
    # 8 * 3 * 9 weights of 8 bits, times 1.6; 16 * 8 * 9 of 4 bits; 16 * 10 of 2 bits.
    assert modcap(layers, grids) == pytest.approx({"stem": 2764.8, "body": 4608.0, "head": 320.0})


def test_a_stride_of_three_or_one_converts_nothing():
    layers = [conv("a", (2, 2, 1, 1), 3), conv("b", (2, 2, 1, 1), 1)]
    assert modcap(layers, {"a": Grid(4), "b": Grid(4)}) == {"a": 16.0, "b": 16.0}


def test_losses_are_capacities_where_there_is_a_loss():
    losses = {"a": 0.0, "b": 0.25, "c": math.inf, "d": math.nan, "e": 0.5}
    assert modcap_from_losses(losses) == {"b": 0.25, "e": 0.5}


def test_the_largest_squared_differences_are_chosen_in_order_of_the_graph():
    pairs = [Pair("a", "b"), Pair("b", "c"), Pair("c", "d"), Pair("d", "e")]
    capacity = {"a": 10.0, "b": 4.0, "c": 5.0, "d": -2.0, "e": 0.0}  # differences -6, 1, -7, 2
    assert differing(pairs, capacity, 2) == [pairs[0], pairs[2]]
    assert differing(pairs, capacity, 3) == [pairs[0], pairs[2], pairs[3]]
    assert differing(pairs, capacity, 9) == pairs


def test_pairs_that_cannot_be_solved_together_or_have_no_capacity_are_passed_over():
    pairs = [Pair("a", "b", refusal="a fork"), Pair("b", "c"), Pair("c", "d")]
    assert differing(pairs, {"a": 100.0, "b": 1.0, "c": 2.0}, 2) == [pairs[1]]


def test_of_equals_the_first_is_chosen():
    pairs = [Pair("a", "b"), Pair("b", "c")]
    assert differing(pairs, {"a": 0.0, "b": 1.0, "c": 0.0}, 1) == [pairs[0]]
