"""The sums for a GPU, run on NumPy, against the sums for the CPU and against float64."""

import numpy as np
import pytest

from comq_onnx.stats import device_gram
from comq_onnx.stats.device_gram import DeviceGramSum
from comq_onnx.stats.gram import GramSum


def make_rows(groups: int, n: int, k: int, mean: float = 0.0, dtype: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((k, k)) / np.sqrt(k)
    return (rng.standard_normal((groups, n, k)) @ mix + mean * rng.standard_normal(k)).astype(dtype)


def both(rows: np.ndarray, *cuts: int):
    """Statistics from the sum for a GPU and from that for the CPU."""
    shape = (rows.shape[0], rows.shape[2])
    sums = DeviceGramSum(*shape, np, rows.dtype), GramSum(*shape, rows.dtype)
    for total in sums:
        for piece in np.split(rows, cuts, axis=1):
            total.add(piece)
    return [total.stats() for total in sums]


SHAPES = [(1, 1500, 40), (3, 700, 70), (16, 900, 9), (1, 1, 5), (2, 40, 300), (1, 1100, 1200)]


@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_for_the_cpu(shape: tuple[int, int, int], mean: float) -> None:
    rows = make_rows(*shape, mean)
    got, wanted = both(rows, shape[1] // 3, shape[1] // 2)
    assert got.count == wanted.count
    np.testing.assert_allclose(got.mean, wanted.mean, rtol=1e-12, atol=1e-15)
    # A product that is cut otherwise is rounded otherwise, in float32.
    spread = np.sqrt(np.diagonal(wanted.gram, axis1=1, axis2=2)) + 1e-9
    assert (np.abs(got.gram - wanted.gram) <= 1e-6 * spread[:, :, None] * spread[:, None, :]).all()
    assert np.array_equal(got.gram, got.gram.swapaxes(1, 2))
    assert got.gram.dtype == got.mean.dtype == np.float64
    assert not got.gram.flags.writeable


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
def test_squares_neither_overflow_nor_vanish(scale: float) -> None:
    rows = (make_rows(1, 600, 20) * np.float32(scale)).astype(np.float32)
    wide = rows.astype(np.float64)
    got, _ = both(rows, 7)
    np.testing.assert_allclose(got.gram, wide.swapaxes(1, 2) @ wide / 600, rtol=1e-5, atol=1e-6 * scale**2)


def test_a_large_gram_is_added_in_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(2, 300, 50, 2.0)
    whole, _ = both(rows)
    monkeypatch.setattr(device_gram, "PANEL", 16)
    monkeypatch.setattr(device_gram, "SMALL", 8)
    cut, _ = both(rows)
    np.testing.assert_allclose(cut.gram, whole.gram, rtol=1e-6, atol=1e-6)
    assert np.array_equal(cut.gram, cut.gram.swapaxes(1, 2))


def test_how_rows_arrive_changes_nothing() -> None:
    rows = make_rows(1, 1300, 30, 3.0)
    (first, _), (second, _) = both(rows), both(rows, 1, 500, 513, 513, 1290)
    assert np.array_equal(first.gram, second.gram)
    assert np.array_equal(first.mean, second.mean)


def test_float64_rows_are_multiplied_in_float64() -> None:
    rows = make_rows(1, 700, 20, 1e4, np.float64)
    got, wanted = both(rows)
    np.testing.assert_allclose(got.gram, wanted.gram, rtol=1e-14)


def test_constant_rows_and_no_rows() -> None:
    got, wanted = both(np.full((1, 600, 3), 0.1, np.float32))
    np.testing.assert_allclose(got.gram, wanted.gram, rtol=1e-14)
    assert DeviceGramSum(1, 3, np).stats() is None


def test_what_is_allocated_is_bounded_by_what_is_announced() -> None:
    assert device_gram.device_bytes_needed(1, 14336) < 4 << 30
    assert device_gram.device_bytes_needed(2000, 9) < 1 << 30
