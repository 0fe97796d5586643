"""Damping is judged on samples the solver has not seen; the judge is checked against sums over rows."""

from dataclasses import replace

import numpy as np
import pytest

from comq_onnx.backends import numpy_
from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve import damping as module
from comq_onnx.solve.damping import CANDIDATES, MORE_ROWS, chosen, halves, unseen_error
from comq_onnx.solve.pose import pose


def inputs(samples: int, per_sample: int, rows: int, seed: int) -> np.ndarray:
    """``(samples * per_sample, rows)``: rows of a sample share most of what they are, as tokens do."""
    mix = np.random.default_rng(1).standard_normal((rows, rows)) * np.geomspace(1, 0.1, rows)
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal((samples, rows)), per_sample, axis=0)
    return (shared + 0.02 * rng.standard_normal(shared.shape)) @ mix + 0.5


def stats_of(x: np.ndarray) -> InputStats:
    def sums(part: np.ndarray) -> InputStats:
        return InputStats(part.mean(axis=0)[None], (part.T @ part / len(part))[None], len(part))

    return replace(sums(x), half=sums(x[: len(x) // 2]))


def problem(samples: int, per_sample: int, rows: int = 32, bits: int = 3) -> Problem:
    weight = np.random.default_rng(3).standard_normal((1, rows, 24))
    return Problem(weight, stats_of(inputs(samples, per_sample, rows, seed=5)), Grid(bits))


def test_the_second_half_is_what_the_first_leaves() -> None:
    x = inputs(10, 4, 6, seed=2)
    _, second = halves(stats_of(x))
    rest = x[len(x) // 2 :]
    np.testing.assert_allclose(second.mean[0], rest.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(second.gram[0], rest.T @ rest / len(rest), rtol=1e-10, atol=1e-12)
    assert second.count == len(rest)


@pytest.mark.parametrize("centred", [True, False])
def test_the_unseen_error_is_that_of_the_rows(centred: bool) -> None:
    x = inputs(10, 4, 6, seed=2)
    first, second = halves(stats_of(x))
    error = np.random.default_rng(4).standard_normal((1, 6, 3))
    bias = x[: len(x) // 2].mean(axis=0) @ error[0] if centred else 0.0
    direct = np.square(x[len(x) // 2 :] @ error[0] - bias).sum(axis=1).mean()
    assert unseen_error(error, first, second, centred) == pytest.approx(direct, rel=1e-10)


def test_few_samples_get_more_damping_than_many() -> None:
    few, many = problem(30, 1), problem(2000, 1)
    picked = [chosen(p, pose(p, True), True, numpy_)[0] for p in (few, many)]
    assert picked[0] > picked[1]
    assert all(value / MORE_ROWS in CANDIDATES for value in picked)


@pytest.mark.parametrize(
    "grid", [Grid(4), Grid(3, False), Grid(4, True, "block", 16), Grid(4, True, "tensor")]
)
def test_trials_solved_together_choose_as_trials_solved_alone(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(problem(12, 16), grid=grid)
    together = chosen(one, pose(one, True), True, numpy_)
    monkeypatch.setattr(module, "CELLS", 1)
    np.testing.assert_array_equal(chosen(one, pose(one, True), True, numpy_), together)


def test_without_samples_held_out_damping_follows_the_rows() -> None:
    one = problem(12, 16)
    bare = replace(one, stats=replace(one.stats, half=None))  # type: ignore[type-var]
    assert chosen(bare, pose(bare, True), True, numpy_)[0] == pytest.approx(0.5 * 32 / (12 * 16))
