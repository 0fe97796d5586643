"""Ranges against what all values say, and the laws every grid keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from comq_onnx.records import ActivationKind, ValueGrid
from comq_onnx.stats.histogram import Histogram
from comq_onnx.stats.ranges import choose_grid, grid_between

U8, S8 = ActivationKind(signed=False, symmetric=False), ActivationKind(signed=True, symmetric=True)
KINDS = (U8, S8, ActivationKind(True, False), ActivationKind(False, True))
METHODS = ("minmax", "percentile", "entropy", "mse")
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def of(values: np.ndarray) -> Histogram:
    made = Histogram()
    made.add(values)
    return made


def codes(kind: ActivationKind) -> tuple[int, int]:
    return (-128, 127) if kind.signed else (0, 255)


def error(values: np.ndarray, grid: ValueGrid) -> float:
    """Mean squared error by the ONNX definition of QuantizeLinear and DequantizeLinear."""
    stored = np.clip(np.rint(values / grid.scale) + grid.zero_point, *codes(grid.kind))
    return float(np.mean((grid.scale * (stored - grid.zero_point) - values) ** 2))


def drawn(name: str, size: int = 20000) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(size)
    made = {
        "normal": x,
        "relu": np.maximum(x, 0),
        "gelu": 2 * x * (1 + np.tanh(1.6 * x)) / 2,
        "heavy": rng.standard_t(3, size),
        "softmax": rng.dirichlet(np.full(50, 0.2), size // 50).ravel(),
        "shifted": x + 3,
        "negative": -np.abs(x),
        "clip": np.clip(4 * x, 0, 6),
        "outlier": np.where(np.arange(size) == 7, 300, x),
        "few": rng.choice([-1.0, 0.5, 0.25, 3.0], size),
    }
    return made[name].astype(np.float32).astype(np.float64)


NAMES = ("normal", "relu", "gelu", "heavy", "softmax", "shifted", "negative", "clip", "outlier", "few")


def assert_lawful(grid: ValueGrid, low: float = -np.inf, high: float = np.inf) -> None:
    bottom, top = codes(grid.kind)
    assert grid.scale > 0
    assert float(np.float32(grid.scale)) == grid.scale
    assert bottom <= grid.zero_point <= top
    assert not grid.kind.symmetric or grid.zero_point == 0
    ends = [float(np.float32(grid.scale) * np.float32(code - grid.zero_point)) for code in (bottom, top)]
    assert low <= ends[0] <= 0 <= ends[1] <= high


@given(arrays(np.float32, st.integers(0, 30), elements=FLOATS | st.just(0.0)), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=25)
def test_every_grid_keeps_the_laws(values, kind):
    for method in METHODS:
        assert_lawful(choose_grid(of(values), kind, method))
        positive = choose_grid(of(np.abs(values)), kind, method)
        assert positive.zero_point == (0 if kind.symmetric else codes(kind)[0])


@given(
    arrays(np.float32, st.integers(1, 30), elements=st.floats(-100, 100, width=32)),
    st.sampled_from(METHODS),
    st.floats(-50, -0.125, width=32) | st.just(0.0),
    st.floats(0.125, 50, width=32),
)
@settings(deadline=None, max_examples=60)
def test_ranges_stay_within_the_limits(values, method, low, high):
    held = np.clip(values, low, high)
    grid = choose_grid(of(held), U8, method, low, high)
    assert_lawful(grid, low, high)
    assert low < 0 or grid.zero_point == 0
    assert_lawful(choose_grid(of(held), S8, method, low, high), low or -np.inf, high)


@pytest.mark.parametrize("high", [6.0, 1.0, 0.1, 20.0])
def test_a_clip_that_is_reached_costs_no_more_than_a_rounding(high):
    high = float(np.float32(high))
    grid = choose_grid(of(np.linspace(0, high, 5000)), U8, "minmax", 0.0, high)
    top = float(np.float32(grid.scale) * np.float32(255))
    assert grid.zero_point == 0
    assert high * (1 - 1e-6) < top <= high


def test_limits_that_exclude_zero_and_tensors_of_zeros():
    assert_lawful(choose_grid(of(np.linspace(1, 6, 50)), U8, "mse", 1.0, 6.0), high=6.0)
    assert choose_grid(of(np.linspace(-6, 0, 50)), U8, "mse", -6.0, 0.0).zero_point == 255
    for kind in KINDS:
        for method in METHODS:
            assert choose_grid(of(np.zeros(5)), kind, method).scale == 1.0
            assert choose_grid(Histogram(), kind, method).scale == 1.0
            assert_lawful(choose_grid(of(np.zeros(5)), kind, method, 0.0, 6.0), high=6.0)


@pytest.mark.parametrize("name", NAMES)
def test_minmax_is_exact(name):
    x = drawn(name)
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = np.float32((high - low) / 255)
    assert choose_grid(of(x), U8, "minmax") == ValueGrid(float(scale), round(-low / float(scale)), U8)
    assert choose_grid(of(x), S8, "minmax") == ValueGrid(float(np.float32(abs(x).max() / 127)), 0, S8)


@pytest.mark.parametrize("name", ["normal", "relu", "gelu", "heavy", "shifted", "negative"])
def test_percentile_agrees_with_numpy(name):
    x = drawn(name, 200000)
    found = of(x)
    low, high = np.minimum(np.quantile(x, 0.0001), 0), np.maximum(np.quantile(x, 0.9999), 0)
    grid = choose_grid(found, U8, "percentile")
    assert grid.scale * 255 == pytest.approx(high - low, abs=3 * found.width)
    assert grid.zero_point == pytest.approx(-low / (high - low) * 255, abs=0.6)
    symmetric = choose_grid(found, S8, "percentile")
    assert symmetric.scale * 127 == pytest.approx(np.quantile(np.abs(x), 0.9999), abs=2 * found.width)


def test_a_percentile_never_leaves_zeros_alone():
    x = np.zeros(100000)
    x[5] = 3.0
    for kind in (U8, S8):
        assert choose_grid(of(x), kind, "percentile") == choose_grid(of(x), kind, "minmax")


def best_by_force(x: np.ndarray, kind: ActivationKind) -> float:
    """The least error over both ends on a fine grid of ranges, refined once, on all values."""
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    both = low < 0 < high and not kind.symmetric
    coarse = 2.0 ** -np.arange(0, 5, 0.25)
    fine = 2.0 ** np.arange(-0.2, 0.21, 0.05)

    def tried(center: tuple[float, float], shares: np.ndarray) -> tuple[float, tuple[float, float]]:
        pairs = [(a, b) for a in shares for b in (shares if both else [a])]
        ends = [(center[0] * a, center[1] * b) for a, b in pairs]
        return min((error(x, grid_between(end, kind)), end) for end in ends)

    _, center = tried((low, high), coarse)
    return tried(center, fine)[0]


@pytest.mark.parametrize("kind", [U8, S8], ids=["uint8", "int8"])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_mse_is_within_a_percent_of_brute_force(name, kind):
    x = drawn(name)
    grid = choose_grid(of(x), kind, "mse")
    assert error(x, grid) <= 1.01 * best_by_force(x, kind) + 1e-12


@pytest.mark.parametrize("kind", [U8, S8], ids=["uint8", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_mse_is_never_worse_than_minmax(name, kind):
    x = drawn(name)
    worst = error(x, choose_grid(of(x), kind, "minmax"))
    assert error(x, choose_grid(of(x), kind, "mse")) <= worst * 1.001 + 1e-12
