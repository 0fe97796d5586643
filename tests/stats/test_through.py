"""Ranges of values that are seen through a function, by brute force over all the values."""

from math import erf

import numpy as np
import pytest

from comq_onnx.records import ActivationKind, ValueGrid
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.ranges import choose_grid
from comq_onnx.stats.through import choose_through

U8, S8 = ActivationKind(signed=False, symmetric=False), ActivationKind(signed=True, symmetric=True)
FUNCTIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + np.vectorize(erf)(x / np.sqrt(2.0))) / 2,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "identity": lambda x: x,
}


def values() -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.concatenate([rng.normal(-3, 4, 20000), rng.normal(1, 1, 20000)]).astype(np.float32)


def error(x: np.ndarray, grid: ValueGrid, function) -> float:
    low, high = (-128, 127) if grid.kind.signed else (0, 255)
    stored = grid.scale * (np.clip(np.rint(x / grid.scale) + grid.zero_point, low, high) - grid.zero_point)
    return float(np.mean((function(stored.astype(np.float64)) - function(x.astype(np.float64))) ** 2))


@pytest.mark.parametrize("kind", [U8, S8], ids=["uint8", "int8"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_worse_behind_the_function_than_other_methods(name: str, kind: ActivationKind) -> None:
    x, function, histogram = values(), FUNCTIONS[name], Histogram()
    histogram.add(x)
    grid = choose_through(histogram, kind, lambda v: function(v.astype(np.float64)))
    others = [choose_grid(histogram, kind, method) for method in ("mse", "minmax", "percentile")]
    assert error(x, grid, function) <= 1.01 * min(error(x, other, function) for other in others)


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_codes_are_not_spent_on_what_vanishes(name: str) -> None:
    x, function, histogram = values(), FUNCTIONS[name], Histogram()
    histogram.add(x)
    grid = choose_through(histogram, U8, lambda v: function(v.astype(np.float64)))
    plain = choose_grid(histogram, U8, "mse")
    assert -grid.scale * grid.zero_point > x.min() / 1.5
    assert error(x, grid, function) < 0.5 * error(x, plain, function)


def test_without_values_any_grid_will_do() -> None:
    assert choose_through(Histogram(), U8, lambda v: v).scale > 0
