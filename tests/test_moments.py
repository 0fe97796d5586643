"""Statistics of halves put together and taken apart, against those of all rows at once."""

import numpy as np
import pytest

from comq_onnx.moments import halves, merged
from comq_onnx.records import Drift, InputStats


def stats_of(rows: np.ndarray, floats: np.ndarray, added: np.ndarray) -> InputStats:
    """All moments of rows x' ``(groups, n, rows)``, written out in float64."""
    count, gap = rows.shape[1], floats - rows

    def moment(left: np.ndarray) -> np.ndarray:
        return left.swapaxes(1, 2) @ rows / count

    energy = float((gap**2).sum() / (floats**2).sum())
    drift = Drift(gap.mean(axis=1), moment(gap), energy, added.mean(axis=1), moment(added))
    return InputStats(rows.mean(axis=1), moment(rows), count, None, drift)


def made(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2, count, 5)) + 2
    return rows, rows + rng.standard_normal(rows.shape) / 3, rng.standard_normal((2, count, 3)) - 1


def same(got: InputStats, wanted: InputStats) -> None:
    assert got.count == wanted.count
    assert got.drift is not None
    assert wanted.drift is not None
    np.testing.assert_allclose(got.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(got.gram, wanted.gram, rtol=1e-12)
    for name in ("mean", "cross", "residual_mean", "residual_cross"):
        np.testing.assert_allclose(getattr(got.drift, name), getattr(wanted.drift, name), atol=1e-12)


def test_halves_merge_to_the_whole_and_come_apart_again():
    first, second = made(0, 250), made(1, 350)
    both = merged(stats_of(*first), stats_of(*second))
    assert both is not None
    same(both, stats_of(*(np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))))
    assert not both.gram.flags.writeable
    for got, wanted in zip(halves(both), (first, second), strict=True):
        same(got, stats_of(*wanted))


def test_one_half_is_the_whole_where_the_other_saw_nothing():
    one = stats_of(*made(0, 20))
    assert merged(one, None) is merged(None, one) is one
    with pytest.raises(ValueError, match="no half"):
        halves(one)
