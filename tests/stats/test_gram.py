"""Sums of rows against the same sums in float64 over all rows at once."""

import numpy as np
import pytest

from comq_onnx.stats import gram
from comq_onnx.stats.gram import GramSum, bytes_needed


def summed(rows: np.ndarray, *cuts: int):
    total = GramSum(rows.shape[0], rows.shape[2], rows.dtype)
    for piece in np.split(rows, cuts, axis=1):
        total.add(piece)
    return total.stats()


def make_rows(groups: int, n: int, k: int, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((k, k)) / np.sqrt(k)
    return (rng.standard_normal((groups, n, k)) @ mix + mean * rng.standard_normal(k)).astype(np.float32)


def covariance_error(stats, rows: np.ndarray) -> float:
    """Largest error of a covariance over the product of the deviations."""
    wide = rows.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    want = centred.swapaxes(1, 2) @ centred / rows.shape[1]
    got = stats.gram - stats.mean[:, :, None] * stats.mean[:, None, :]
    deviation = np.sqrt(np.diagonal(want, axis1=1, axis2=2))
    return float(np.abs((got - want) / (deviation[:, :, None] * deviation[:, None, :])).max())


@pytest.mark.parametrize(("groups", "n", "k"), [(1, 1500, 40), (3, 700, 70), (16, 900, 9), (1, 1, 5)])
def test_mean_and_gram(groups, n, k):
    rows = make_rows(groups, n, k)
    stats = summed(rows, n // 3, n // 2)
    wide = rows.astype(np.float64)
    assert stats.count == n
    assert np.allclose(stats.mean, wide.mean(axis=1), rtol=1e-7, atol=1e-7)
    assert np.allclose(stats.gram, wide.swapaxes(1, 2) @ wide / n, rtol=1e-6, atol=1e-6)
    assert np.array_equal(stats.gram, stats.gram.swapaxes(1, 2))
    assert stats.gram.dtype == stats.mean.dtype == np.float64


@pytest.mark.parametrize("mean", [0.0, 3.0, 300.0])
def test_the_covariance_survives_a_large_mean(mean):
    rows = make_rows(1, 4000, 64, mean)
    assert covariance_error(summed(rows), rows) < 1e-6


def test_a_large_gram_is_summed_in_panels(monkeypatch):
    rows = make_rows(2, 300, 50, 2.0)
    whole = summed(rows)
    monkeypatch.setattr(gram, "PANEL", 16)
    monkeypatch.setattr(gram, "SMALL", 8)
    cut = summed(rows)
    assert np.allclose(cut.gram, whole.gram, rtol=1e-6, atol=1e-6)
    assert np.array_equal(cut.gram, cut.gram.swapaxes(1, 2))


def test_how_rows_arrive_does_not_matter():
    rows = make_rows(2, 1300, 20)
    one, other = summed(rows), summed(rows, *range(7, 1300, 7))
    assert np.array_equal(one.gram, other.gram)
    assert np.array_equal(one.mean, other.mean)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_squares_neither_vanish_nor_overflow(size):
    rows = make_rows(1, 600, 8)
    stats = summed(rows * np.float32(size))
    assert np.allclose(stats.gram / size**2, summed(rows).gram, rtol=1e-4, atol=1e-4)


def test_float64_rows_are_summed_in_float64():
    rows = np.random.default_rng(0).standard_normal((1, 900, 30)) + 5
    assert np.allclose(summed(rows).gram[0], rows[0].T @ rows[0] / 900, rtol=1e-13, atol=0)


def test_dead_and_constant_inputs_are_exact():
    rows = make_rows(1, 600, 4)
    rows[..., 1], rows[..., 2] = 0.0, 0.3
    stats = summed(rows)
    assert (stats.gram[0, 1] == 0).all()
    assert stats.gram[0, 2, 2] - stats.mean[0, 2] ** 2 == 0


def test_no_rows_are_no_statistics():
    total = GramSum(1, 4)
    total.add(np.zeros((1, 0, 4), np.float32))
    assert total.stats() is None


def test_the_callers_rows_are_left_alone():
    rows = make_rows(1, 600, 4)
    rows.flags.writeable = False
    before = rows.copy()
    stats = summed(rows)
    assert np.array_equal(rows, before)
    assert not stats.gram.flags.writeable


def test_memory_is_counted():
    assert 8 * 14000**2 < bytes_needed(1, 14000) < 1.6 * 8 * 14000**2
