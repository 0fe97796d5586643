"""How far a bias for each position is believed."""

import numpy as np
import pytest

from comq_onnx.solve.position import position_part, share

GRID = np.linspace(0, 1, 2001)


def judged_by_search(first: np.ndarray, second: np.ndarray) -> float:
    """The s whose bias from one half does most for the other, both ways, by trying."""
    loss = [((second - s * first) ** 2).sum() + ((first - s * second) ** 2).sum() for s in GRID]
    return float(GRID[int(np.argmin(loss))])


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0, 3.0])
def test_share_is_the_best_for_the_other_half_carried_over_to_all_samples(noise: float) -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((20, 30))
    first, second = (truth + noise * rng.standard_normal(truth.shape) for _ in range(2))
    s = judged_by_search(first, second)
    assert share(first, second) == pytest.approx(2 * s / (1 + s), abs=2e-3)


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_share_is_near_the_best_for_new_samples(noise: float) -> None:
    """The truth is known here, so the best shrinkage of the mean of both halves is."""
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((50, 80))
    first, second = (truth + noise * rng.standard_normal(truth.shape) for _ in range(2))
    whole = (first + second) / 2
    best = np.vdot(truth, whole) / np.vdot(whole, whole)
    assert share(first, second) == pytest.approx(best, abs=0.05)


def test_halves_that_contradict_each_other_give_nothing() -> None:
    first = np.random.default_rng(2).standard_normal((4, 5))
    assert share(first, -first) == 0
    assert share(np.zeros((4, 5)), np.zeros((4, 5))) == 0


def test_halves_that_agree_give_their_mean_exactly() -> None:
    gap = np.random.default_rng(3).standard_normal((7, 5))
    channel = gap.mean(axis=0)
    part, s = position_part((gap, gap), (4, 4), channel)
    assert s == 1
    np.testing.assert_allclose(channel + part, gap, atol=1e-15)


def test_channels_of_an_image_are_its_first_axis() -> None:
    rng = np.random.default_rng(4)
    level, pattern = rng.standard_normal((3, 1, 1)), rng.standard_normal((3, 6, 5))
    part, s = position_part((level + pattern, level + pattern), (2, 2), level)
    assert s == 1
    np.testing.assert_allclose(part, pattern, atol=1e-15)
    # All that differs is the level of the halves, which is the channel bias's business.
    part, s = position_part((level + np.zeros((3, 6, 5)), 2 * level + np.zeros((3, 6, 5))), (2, 2), level)
    assert s == 0
    assert not part.any()


def test_halves_count_by_their_samples() -> None:
    rng = np.random.default_rng(5)
    pattern = rng.standard_normal((6, 4))
    first, second = pattern + 0.1 * rng.standard_normal((2, 6, 4))
    channel = (3 * first + second).mean(axis=0) / 4
    part, s = position_part((first, second), (3, 1), channel)
    np.testing.assert_allclose(channel + part / s, (3 * first + second) / 4, atol=1e-12)
