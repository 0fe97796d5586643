"""A network whose layers are switched between their own weights and solutions, without a new session."""

import numpy as np
import pytest
from graphs import model, weight
from onnx import ModelProto

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Quality, Solution
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.switched import Switched

A, B = weight(4, 6, seed=1), weight(6, 3, seed=2)
TEXT = "g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, a) y = MatMul(h, b) }"


def network() -> ModelProto:
    made = model(TEXT, a=A, b=B)
    for number, node in enumerate(made.graph.node):
        node.name = f"n{number}"
    return made


def solution(codes: np.ndarray, scale: float, bias: np.ndarray | None = None) -> Solution:
    groups = codes[None]
    return Solution(
        Grid(4),
        groups.astype(np.int8),
        np.full((1, 1, codes.shape[1]), scale),
        None,
        bias,
        Quality(0.0, 0.0, 0.0),
    )


@pytest.fixture
def switched() -> Switched:
    layers = find_layers(load(network()), Recipe())[0]
    return Switched(network(), layers, ["y"], SessionOptions(optimize=False))


def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def test_unswitched_it_is_the_float_network(switched):
    x = rows()
    assert switched.run_with({"x": x}, {})["y"] == pytest.approx(x @ A @ B, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_solution_is_mixed_in_by_its_strength(switched, strength):
    x, codes = rows(), np.random.default_rng(3).integers(-7, 8, size=(6, 3))
    bias = np.arange(3.0)[None]
    name = find_layers(load(network()), Recipe())[0][1].name
    fed = switched.switch({name: solution(codes, 0.1, bias)}, {name: strength})
    mixed = B + strength * (0.1 * codes - B)
    wanted = x @ A @ mixed + strength * bias
    assert switched.run_with({"x": x}, fed)["y"] == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_what_was_switched_does_not_stay(switched):
    x, codes = rows(), np.ones((6, 3))
    name = find_layers(load(network()), Recipe())[0][1].name
    before = switched.run_with({"x": x}, {})["y"]
    assert not np.allclose(
        switched.run_with({"x": x}, switched.switch({name: solution(codes, 0.3)}))["y"], before
    )
    assert np.array_equal(switched.run_with({"x": x}, {})["y"], before)
