"""Grids by the error of a layer's output, against all grids tried on all rows."""

import numpy as np
import pytest

from comq_onnx.records import ActivationKind, ValueGrid
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.output_error import Reading, choose_by_output, rounded
from comq_onnx.stats.ranges import choose_grid, grid_between

U8, S8 = ActivationKind(signed=False, symmetric=False), ActivationKind(signed=True, symmetric=True)


def of(values: np.ndarray) -> Histogram:
    made = Histogram()
    made.add(values)
    return made


def output_error(readings: list[Reading], grid: ValueGrid, centred: bool = False) -> float:
    """The definition, in float64."""
    low, high = (-128, 127) if grid.kind.signed else (0, 255)
    total = 0.0
    for reading in readings:
        x, w = reading.rows.astype(np.float64), reading.weight.astype(np.float64)
        codes = np.clip(np.rint(x / grid.scale) + grid.zero_point, low, high)
        off = (grid.scale * (codes - grid.zero_point) - x) @ w
        if centred:
            off = off - off.mean(axis=1, keepdims=True)
        total += np.mean(np.sum(off**2, axis=(1, 2)) / np.sum((x @ w) ** 2, axis=(1, 2)))
    return float(total)


def case(rows: int, cols: int, groups: int = 1, count: int = 300) -> tuple[np.ndarray, Reading]:
    """Large values where the weight is small, so that the squared error of x misleads."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((groups, count, rows)).astype(np.float32)
    w = rng.standard_normal((groups, rows, cols)) / np.sqrt(rows)
    x[:, :, 0] *= 12
    w[:, 0] *= 0.01
    return x, Reading(x, w)


@pytest.mark.parametrize("kind", [U8, S8], ids=["uint8", "int8"])
@pytest.mark.parametrize("shape", [(24, 8), (8, 40), (9, 1, 6)], ids=str)
@pytest.mark.parametrize("centred", [False, True])
def test_close_to_brute_force_and_never_worse_than_mse(kind, shape, centred):
    x, reading = case(*shape)
    low, high = float(x.min()), float(x.max())
    shares = 2.0 ** -np.arange(0, 5, 0.1)
    ends = [(low * a, high * b) for a in shares for b in (shares[::2] if kind is U8 else [a])]
    best = min(output_error([reading], grid_between(end, kind), centred) for end in ends)
    grid = choose_by_output(of(x), kind, [reading], centred=centred)
    found = output_error([reading], grid, centred)
    assert found <= 1.25 * best
    assert found < output_error([reading], choose_grid(of(x), kind, "mse"), centred) * 1.0001


def test_several_layers_count_by_their_relative_errors():
    x, first = case(24, 8)
    second = Reading(x, 1000 * np.random.default_rng(1).standard_normal((1, 24, 5)))
    alone, both = (choose_by_output(of(x), S8, found) for found in ([first], [first, second]))
    assert output_error([first, second], both) <= output_error([first, second], alone) * 1.0001
    assert output_error([first], alone) < output_error([first], both)


def test_a_small_channel_counts_as_much_as_a_large_one():
    """Of two channels of a depthwise convolution, the small one needs small steps."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 400, 9)).astype(np.float32)
    x[0] *= 60
    found = choose_by_output(of(x), S8, [Reading(x, np.ones((2, 9, 1)))])
    assert found.scale < choose_grid(of(x), S8, "mse").scale


def test_without_readings_it_is_the_squared_error():
    x, _ = case(24, 8)
    empty = Reading(np.zeros((1, 0, 24), np.float32), np.zeros((1, 24, 8)))
    for readings in ([], [empty]):
        assert choose_by_output(of(x), U8, readings) == choose_grid(of(x), U8, "mse")


def test_limits_are_kept_and_zeros_have_a_grid():
    x, reading = case(24, 8)
    held = Reading(np.clip(x, 0, 6), reading.weight)
    grid = choose_by_output(of(held.rows), U8, [held], 0.0, 6.0)
    assert grid.zero_point == 0
    assert np.float32(grid.scale) * np.float32(255) <= 6
    zeros = Reading(np.zeros_like(x), reading.weight)
    assert choose_by_output(of(zeros.rows), S8, [zeros]).scale == 1.0


def test_rounding_is_that_of_the_operators():
    x, _ = case(24, 8)
    grid = ValueGrid(float(np.float32(0.1)), 100, U8)
    codes = np.clip(np.rint(x / np.float32(0.1)) + 100, 0, 255)
    assert np.array_equal(rounded(x, grid), (codes - 100).astype(np.float32) * np.float32(0.1))
