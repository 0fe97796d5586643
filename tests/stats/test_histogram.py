"""Histograms: exact counts, whatever the order, the batches and the halves that are merged."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from comq_onnx.stats.histogram import Histogram

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
VALUES = arrays(np.float32, st.integers(0, 60), elements=FLOATS | st.sampled_from([0.0, -0.0, 1.0, -1e-45]))


def of(*parts: np.ndarray, bins: int = 16) -> Histogram:
    made = Histogram(bins)
    for part in parts:
        made.add(part)
    return made


def state(histogram: Histogram) -> tuple:
    scalars = (histogram.count, histogram.zeros, histogram.low, histogram.high)
    return *scalars, histogram.exponent, histogram.first, histogram.counts.tolist()


def assert_right(histogram: Histogram, values: np.ndarray) -> None:
    """Compare with the definition, value by value, in exact arithmetic."""
    wide = values.astype(np.float64)
    assert (histogram.low, histogram.high) == (wide.min(), wide.max())
    assert histogram.count == wide.size
    assert histogram.zeros == (wide == 0).sum()
    want = dict[int, int]()
    for value in wide.ravel().tolist():
        if value:
            index = int(value // histogram.width)
            want[index] = want.get(index, 0) + 1
    got = {histogram.first + i: int(n) for i, n in enumerate(histogram.counts) if n}
    assert got == want
    assert len(histogram.counts) <= histogram.bins


@given(VALUES, st.integers(2, 20), st.randoms())
@settings(deadline=None)
def test_order_splits_and_merges_change_nothing(values, bins, random):
    whole = of(values, bins=bins)
    if values.size:
        assert_right(whole, values)
    shuffled = values.copy()
    random.shuffle(shuffled)
    cuts = sorted(random.choices(range(len(values) + 1), k=3))
    parts = np.split(shuffled, cuts)
    assert state(of(*parts, bins=bins)) == state(whole)
    first, second = of(*parts[:2], bins=bins), of(*parts[2:], bins=bins)
    first.merge(second)
    assert state(first) == state(whole)


def test_the_width_is_the_smallest_that_suffices():
    found = of(np.array([-3.0, 5.0], np.float32), bins=16)
    # Width 1/2 makes the bins -6 to 10, which are 17.
    assert (found.width, found.first, len(found.counts)) == (1.0, -3, 9)
    assert of(np.array([-3.0, 4.9], np.float32), bins=16).width == 0.5


def test_many_values_of_large_arrays():
    values = np.random.default_rng(0).standard_t(2, (3, 70000)).astype(np.float32)
    values[values < -1] = 0
    found = of(*values, bins=1 << 14)
    assert_right(found, values)
    assert len(found.counts) > 1 << 12


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int32])
def test_other_types_count_as_float32(dtype):
    values = (10 * np.random.default_rng(0).standard_normal(500)).astype(dtype)
    assert state(of(values)) == state(of(values.astype(np.float32)))


def test_empty_arrays_and_zeros():
    assert state(of(np.zeros((0, 3), np.float32))) == state(Histogram(16))
    found = of(np.zeros((2, 3)), np.zeros(4))
    assert (found.count, found.zeros, found.low, found.high) == (10, 10, 0.0, 0.0)
    found.add(np.array([2.0]))
    assert (found.count, found.zeros, found.counts.sum()) == (11, 10, 1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(wrong):
    found = of(np.ones(3))
    before = state(found)
    with pytest.raises(ValueError, match="finite"):
        found.add(np.array([1.0, wrong]))
    assert state(found) == before


def test_cells_hold_all_values_that_are_not_zero():
    values = np.minimum(np.random.default_rng(0).standard_normal(1000) * 4, 6.0).astype(np.float32)
    values[:100] = 0
    cells = of(values, bins=64).cells()
    assert cells.points.tolist() == [6.0]
    assert cells.masses.tolist() == [(values == 6).sum()]
    held = cells.density @ np.diff(cells.edges) + cells.masses.sum()
    assert held == pytest.approx((values != 0).sum())
    assert (cells.edges[0], cells.edges[-1]) == (values.min(), 6.0)


def test_histograms_of_other_sizes_do_not_merge():
    with pytest.raises(ValueError, match="merge"):
        Histogram(16).merge(Histogram(32))
