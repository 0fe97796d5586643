"""Damping is judged on samples the solver has not seen; the judge is checked against sums over rows."""

from dataclasses import replace

import numpy as np
import pytest

from comq_onnx.backends import numba_
from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Backend
from comq_onnx.grid import Grid
from comq_onnx.moments import halves
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.damping import RANGE, chosen, unseen_error
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


def damping_of(one: Problem, backend: Backend) -> float:
    return float(chosen(one.stats, pose(one, True), True, Engine(backend))[0])


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
    error = np.random.default_rng(4).standard_normal((1, 3, 6))
    bias = x[: len(x) // 2].mean(axis=0) @ error[0].T if centred else 0.0
    direct = np.square(x[len(x) // 2 :] @ error[0].T - bias).sum(axis=1).mean()
    assert unseen_error(error, first, second, centred)[0] == pytest.approx(direct, rel=1e-10)


def test_few_samples_get_more_damping_than_many(backend: Backend) -> None:
    few, some, many = (damping_of(problem(samples, 1), backend) for samples in (30, 200, 2000))
    assert few > some > many
    assert RANGE[0] <= many
    assert few <= RANGE[1]


def test_a_depthwise_layer_is_judged_on_some_of_its_groups(backend: Backend) -> None:
    weight = np.random.default_rng(3).standard_normal((50, 9, 1))
    parts = [stats_of(inputs(60, 1, 9, seed=seed)) for seed in range(50)]

    def together(one: list[InputStats]) -> InputStats:
        return InputStats(
            np.concatenate([s.mean for s in one]), np.concatenate([s.gram for s in one]), one[0].count
        )

    stats = replace(together(parts), half=together([part.half for part in parts]))
    one = Problem(weight, stats, Grid(4))
    found = chosen(stats, pose(one, True), True, Engine(backend))
    assert found.shape == (50,)
    assert len(set(found.tolist())) == 1
    alone = [damping_of(Problem(weight[g : g + 1], parts[g], Grid(4)), backend) for g in (0, 20, 49)]
    assert 0.2 * min(alone) < found[0] < 5 * max(alone)


def test_rows_of_one_sample_do_not_count_as_samples() -> None:
    """Thirty samples of sixteen rows each are far from 480 samples."""
    assert damping_of(problem(30, 16), numba_) > 2 * damping_of(problem(480, 1), numba_)


@pytest.mark.parametrize("samples", [30, 60, 200])
def test_the_choice_is_near_the_best_on_new_data(samples: int) -> None:
    """Errors of real rounding with feedback, on rows that neither half contains, at dampings all around.

    Half the samples want somewhat more damping than all of them do.
    """
    one = problem(samples, 4)
    fresh = inputs(3000, 1, 32, seed=77)
    judged = {}
    for damping in (*np.geomspace(1e-3, 1, 13), damping_of(one, numba_)):
        judged[damping] = _fresh_error(one, damping, fresh)
    best = min(judged.values())
    assert judged[damping_of(one, numba_)] <= 1.25 * best
    assert max(judged.values()) > 1.35 * best


def _fresh_error(one: Problem, damping: float, fresh: np.ndarray) -> float:
    gram = one.stats.gram[0] - np.outer(one.stats.mean, one.stats.mean)
    order = np.argsort(-np.diag(gram))
    gram = gram[np.ix_(order, order)] + damping * np.trace(gram) / len(gram) * np.eye(len(gram))
    inverse = np.linalg.inv(gram)
    w = np.random.default_rng(8).uniform(-50, 50, (32, 64))
    error = np.empty_like(w)
    for i in range(len(w)):
        error[i] = w[i] - np.rint(w[i])
        w = w - np.outer(inverse[:, i], error[i]) / inverse[i, i]
        inverse = inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
        inverse[i], inverse[:, i] = 0, 0
    return float(np.square((fresh - fresh.mean(axis=0))[:, order] @ _total(error, gram)).sum())


def _total(error: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """The weight's deviation from the local errors: the wish of a row was moved by those before it."""
    upper = np.linalg.cholesky(gram[::-1, ::-1])[::-1, ::-1]
    return np.linalg.solve((upper / np.diag(upper)).T, error)


def test_without_samples_held_out_damping_follows_the_rows(backend: Backend) -> None:
    one = problem(12, 16)
    bare = replace(one, stats=replace(one.stats, half=None))  # type: ignore[type-var]
    assert damping_of(bare, backend) == pytest.approx(0.5 * 32 / (12 * 16))


def test_a_damping_with_which_no_factor_is_had_is_not_chosen(backend: Backend) -> None:
    """The first half's Gram has an eigenvalue of -0.02 of its mean diagonal, as rounding may leave it."""
    one = problem(30, 1)
    half = one.stats.half
    values, axes = np.linalg.eigh(half.gram[0] - np.outer(half.mean, half.mean))
    moved = (-0.02 * values.mean() - values[0]) * np.outer(axes[:, 0], axes[:, 0])
    broken = replace(one, stats=replace(one.stats, half=replace(half, gram=half.gram + moved)))
    assert damping_of(broken, backend) > 0.02
