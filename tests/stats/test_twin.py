"""Two ranges chosen from a histogram, against the values themselves."""

import numpy as np
import pytest

from comq_onnx.records import ActivationKind, TwinGrid, ValueGrid
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.ranges import choose_grid
from comq_onnx.stats.twin import LEAST_GAIN, choose_twin, split, twin_error

UNSIGNED, SYMMETRIC = ActivationKind(False, False), ActivationKind(True, True)
KINDS = pytest.mark.parametrize("kind", [UNSIGNED, SYMMETRIC], ids=["uint8", "int8"])
SOURCES = pytest.mark.parametrize("source", ["softmax", "gelu"])


def values(source: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    if source == "softmax":
        made = np.exp(2 * rng.standard_normal((200, 150)))
        return (made / made.sum(axis=1, keepdims=True)).astype(np.float32).ravel()
    x = rng.standard_t(4, 30_000)
    return (x / (1 + np.exp(-1.702 * x))).astype(np.float32)


def histogram(data: np.ndarray) -> Histogram:
    made = Histogram()
    made.add(data)
    return made


def rounded(data: np.ndarray, grid: ValueGrid) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear by their definition, in float32."""
    low, high = (-128, 127) if grid.kind.signed else (0, 255)
    codes = np.clip(np.rint(data / np.float32(grid.scale)) + grid.zero_point, low, high)
    return (codes - grid.zero_point).astype(np.float32) * np.float32(grid.scale)


def both(data: np.ndarray, twin: TwinGrid) -> np.ndarray:
    beyond = np.maximum(data - np.float32(twin.threshold), 0)
    return rounded(data, twin.small) + rounded(beyond, twin.large)


def lost(data: np.ndarray, stored: np.ndarray) -> float:
    return float(np.square(data.astype(np.float64) - stored).sum())


def chosen(data: np.ndarray, kind: ActivationKind) -> tuple[ValueGrid, TwinGrid]:
    made = histogram(data)
    plain = choose_grid(made, kind, "mse")
    twin = choose_twin(made, kind, plain)
    assert twin is not None
    return plain, twin


@KINDS
@SOURCES
def test_the_threshold_is_what_the_highest_small_code_stands_for(source, kind):
    _, twin = chosen(values(source), kind)
    above = np.array([1.0, 1.5, 4.0, 1000.0], np.float32) * np.float32(twin.threshold)
    assert np.all(rounded(above, twin.small) == np.float32(twin.threshold))
    below = np.array([-1000.0, -0.1, 0.0], np.float32)
    assert np.all(rounded(np.maximum(below, 0), twin.large) == 0)
    assert np.float32(twin.threshold) == twin.threshold


@KINDS
@SOURCES
def test_the_two_terms_are_the_value_but_for_one_rounding(source, kind):
    data = values(source)
    _, twin = chosen(data, kind)
    reach = twin.threshold + 127 * twin.large.scale
    inside = data[data <= reach].astype(np.float64)
    step = np.where(inside <= twin.threshold, twin.small.scale, twin.large.scale)
    off = np.abs(both(data, twin)[data <= reach] - inside)
    assert np.all(off <= step / 2 + 1e-5 * np.abs(inside))


@KINDS
@SOURCES
def test_the_expected_error_is_that_of_the_values(source, kind):
    data = values(source)
    plain, twin = chosen(data, kind)
    measured = lost(data, both(data, twin))
    assert twin_error(histogram(data).cells(), twin) == pytest.approx(measured, rel=0.03)
    assert twin.gain == pytest.approx(lost(data, rounded(data, plain)) / measured, rel=0.05)


@KINDS
@SOURCES
def test_no_other_threshold_and_end_is_much_better(source, kind):
    """Against a search on the values, finer than the one on the histogram."""
    data = values(source)
    _, twin = chosen(data, kind)
    low, high = min(float(data.min()), 0.0), float(data.max())
    top = 127 if kind.symmetric else 255
    best = np.inf
    for threshold in high * 2.0 ** -np.arange(0.5, 9, 0.125):
        if kind.symmetric:
            small = ValueGrid(float(np.float32(max(threshold, -low) / 127)), 0, kind)
        else:
            scale = (threshold - low) / 255
            small = ValueGrid(float(np.float32(scale)), round(-low / scale), kind)
        exact = float(np.float32(small.scale) * np.float32(top - small.zero_point))
        for share in 2.0 ** -np.arange(0, 2, 0.125):
            large = ValueGrid(float(np.float32((high - exact) * share / top)), 0, kind)
            best = min(best, lost(data, both(data, TwinGrid(exact, small, large, 1.0))))
    assert lost(data, both(data, twin)) <= 1.05 * best


@KINDS
def test_values_that_one_grid_suits_get_no_second_one(kind):
    even = histogram(np.linspace(0, 1, 10_000, dtype=np.float32))
    plain = choose_grid(even, kind, "mse")
    # Two ranges have twice as many codes: a fourth of the error at best.
    assert choose_twin(even, kind, plain, 4.2) is None
    assert choose_twin(even, kind, plain, LEAST_GAIN) is not None


@pytest.mark.parametrize("data", [[0.0, 0.0], [-3.0, -1.0], [0.0, 1.0]])
def test_nothing_to_gain(data):
    made = histogram(np.array(data, np.float32))
    assert choose_twin(made, UNSIGNED, choose_grid(made, UNSIGNED, "minmax")) is None


def test_splitting_loses_no_value():
    made = histogram(np.array([-1.0, 0.25, 0.5, 0.5, 2.0, 3.0], np.float32))
    for at in (-2.0, 0.1, 0.6, 1.0, 2.9, 4.0):
        below, above = split(made.cells(), at)
        counts = [np.sum(c.density * np.diff(c.edges)) + c.masses.sum() for c in (below, above)]
        assert sum(counts) == pytest.approx(6)
        assert all(np.all(np.diff(c.edges) >= 0) for c in (below, above))
        assert counts[0] == pytest.approx(sum(v <= at for v in (-1.0, 0.25, 0.5, 0.5, 2.0, 3.0)), abs=0.6)
