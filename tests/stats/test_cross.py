"""The cross-moment of two networks' rows, against sums in float64."""

from typing import Any

import numpy as np
import pytest
from backends.strict_arrays import Library

from comq_onnx.moments import halves, merged
from comq_onnx.records import Drift
from comq_onnx.stats.cross import CrossSum, cross_bytes_needed
from comq_onnx.stats.gram import CHUNK_ROWS, GramSum, chunk_size


def rows_and_gaps(groups: int, count: int, size: int, mean: float = 0, gap_mean: float = 0, seed: int = 0):
    """Correlated rows, and gaps that depend on them."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(groups, size, size)) / np.sqrt(size)
    rows = rng.normal(size=(groups, count, size)) @ mix + mean
    gaps = 0.1 * (rows - mean) @ mix + 0.05 * rng.normal(size=rows.shape) + gap_mean
    return rows.astype(np.float32), gaps.astype(np.float32)


def summed(rows: np.ndarray, gaps: np.ndarray, sizes: list[int], xp: Any = np, dtype=np.float32) -> Drift:
    """Added in pieces."""
    total, done = CrossSum(rows.shape[0], rows.shape[2], gaps.shape[2], xp, dtype), 0
    for size in sizes:
        part = slice(done, done + size)
        total.add(xp.asarray(rows[:, part]), xp.asarray(gaps[:, part]))
        done += size
    assert total.count == done == rows.shape[1]
    return Drift(*total.moments())


def agrees(got: Drift, rows: np.ndarray, gaps: np.ndarray, tolerance: float = 1e-6) -> bool:
    """Deviations are measured in deviations of the two sides, not in their means."""
    rows, gaps = rows.astype(np.float64), gaps.astype(np.float64)
    count, mean, gap_mean = rows.shape[1], rows.mean(axis=1), gaps.mean(axis=1)
    spread = gaps.std(axis=1)[:, :, None] * rows.std(axis=1)[:, None, :] + 1e-30
    centred = got.cross - got.mean[:, :, None] * mean[:, None, :]
    wanted = (gaps - gap_mean[:, None]).swapaxes(1, 2) @ (rows - mean[:, None]) / count
    full = gaps.swapaxes(1, 2) @ rows / count
    energy = (gaps**2).sum() / count
    return (
        got.cross.dtype == got.mean.dtype == np.float64
        and np.abs(got.mean - gap_mean).max() <= 1e-6 * (gaps.std() + np.abs(gap_mean).max())
        and bool((np.abs(centred - wanted) <= tolerance * spread).all())
        and np.allclose(got.cross, full, rtol=1e-5, atol=1e-5 * np.abs(full).max())
        and np.isclose(got.energy, energy, rtol=1e-5)
    )


@pytest.mark.parametrize("gap_mean", [0, -3])
@pytest.mark.parametrize("mean", [0, 3, 100])
@pytest.mark.parametrize("groups", [1, 3])
def test_moments_whatever_the_mean(groups: int, mean: float, gap_mean: float) -> None:
    rows, gaps = rows_and_gaps(groups, 1300, 24, mean, gap_mean)
    assert agrees(summed(rows, gaps, [1300]), rows, gaps)


def test_gaps_far_below_the_rounding_of_the_rows() -> None:
    """Where x' is large and nearly x: summed as gaps they keep their digits."""
    rows, gaps = rows_and_gaps(1, 2000, 16, mean=50)
    gaps *= np.float32(1e-6)
    assert agrees(summed(rows, gaps, [2000]), rows, gaps)


@pytest.mark.parametrize("count", [1, 2, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS])
def test_chunk_boundaries(count: int) -> None:
    rows, gaps = rows_and_gaps(2, count, 8, mean=1)
    # Of two rows the deviation may be small beside the rounding of each.
    assert agrees(summed(rows, gaps, [count]), rows, gaps, 1e-6 if count > 2 else 1e-4)


def test_how_rows_arrive_changes_no_bit() -> None:
    rows, gaps = rows_and_gaps(1, 1500, 8)
    whole = summed(rows, gaps, [1500])
    for sizes in ([1] * 1500, [0, 511, 1, 0, 2, 986], [700, 800]):
        pieces = summed(rows, gaps, sizes)
        assert pieces.cross.tobytes() == whole.cross.tobytes()
        assert (pieces.mean.tobytes(), pieces.energy) == (whole.mean.tobytes(), whole.energy)


@pytest.mark.parametrize("power", [-30, 20])
def test_tiny_and_huge_values(power: int) -> None:
    """Products of float32 neither vanish nor overflow."""
    rows, gaps = (np.ldexp(v, 2 * power) for v in rows_and_gaps(1, 600, 8))
    assert agrees(summed(rows, gaps, [600]), rows, gaps)


def test_float64_rows_are_multiplied_in_float64() -> None:
    rng = np.random.default_rng(0)
    rows, gaps = rng.normal(size=(1, 900, 12)) + 1e5, rng.normal(size=(1, 900, 12)) * 1e-3
    assert agrees(summed(rows, gaps, [900], dtype=np.float64), rows, gaps, tolerance=1e-9)


def test_zeros() -> None:
    zero = np.zeros((1, 40, 4), np.float32)
    found = summed(zero, zero, [40])
    assert (found.energy, not found.cross.any(), not found.mean.any()) == (0, True, True)


def test_results_are_read_only_and_memory_is_bounded() -> None:
    rows, gaps = rows_and_gaps(1, 10, 4)
    found = summed(rows, gaps, [10])
    assert not found.cross.flags.writeable
    assert not found.mean.flags.writeable
    groups, size = 4, 256
    held = groups * size * size * 8 + 2 * 4 * groups * chunk_size(groups, size) * size
    assert cross_bytes_needed(groups, size, size) >= held


def test_gaps_of_another_width() -> None:
    rows, gaps = rows_and_gaps(2, 1300, 24, mean=3)
    narrow = np.ascontiguousarray(gaps[:, :, :5])
    whole, part = summed(rows, gaps, [1300]), summed(rows, narrow, [1300])
    np.testing.assert_allclose(part.cross, whole.cross[:, :5], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(part.mean, whole.mean[:, :5], rtol=1e-5, atol=1e-8)


def test_the_same_on_a_device() -> None:
    rows, gaps = rows_and_gaps(3, 1300, 24, mean=2, gap_mean=1)
    found = summed(rows, gaps, [500, 800], Library())
    assert type(found.cross) is type(found.mean) is np.ndarray
    assert isinstance(found.energy, float)
    assert agrees(found, rows, gaps)


@pytest.mark.parametrize("counts", [(700, 600), (1, 900), (900, 1)])
def test_halves_merged_and_taken_apart_again(counts: tuple[int, int]) -> None:
    rows, gaps = rows_and_gaps(2, sum(counts), 8, mean=1, gap_mean=0.5)

    def half(part: slice):
        gram, cross = GramSum(2, 8), CrossSum(2, 8, 8, np)
        gram.add(rows[:, part])
        cross.add(rows[:, part], gaps[:, part])
        stats = gram.stats()
        assert stats is not None
        return type(stats)(stats.mean, stats.gram, stats.count, drift=Drift(*cross.moments()))

    both = merged(half(slice(counts[0])), half(slice(counts[0], None)))
    assert both is not None
    assert both.drift is not None
    wide, gap = rows.astype(np.float64), gaps.astype(np.float64)
    assert np.allclose(both.drift.cross, gap.swapaxes(1, 2) @ wide / sum(counts), atol=1e-6)
    assert np.allclose(both.drift.mean, gap.mean(axis=1), atol=1e-6)
    first, second = halves(both)
    assert first is both.half
    assert second.count == counts[1]
    assert second.drift is not None
    rest, gap = wide[:, counts[0] :], gap[:, counts[0] :]
    scale = sum(counts) / counts[1]
    assert np.allclose(second.drift.cross, gap.swapaxes(1, 2) @ rest / counts[1], atol=1e-6 * scale)
    assert np.allclose(second.drift.mean, gap.mean(axis=1), atol=1e-6 * scale)
    assert np.isclose(second.drift.energy, (gap**2).sum() / counts[1], rtol=1e-4 * scale)
