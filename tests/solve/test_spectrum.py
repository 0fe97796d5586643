"""Eigenvalues corrected on held-out samples, against the definition and against the true covariance."""

from dataclasses import replace

import numpy as np
import pytest

from comq_onnx.grid import Grid
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.layer import solve_layer
from comq_onnx.solve.pose import pose
from comq_onnx.solve.spectrum import estimated

ROWS = 24
ROOT = np.random.default_rng(0).standard_normal((ROWS, ROWS)) * np.geomspace(2, 0.02, ROWS)
OFFSET = np.linspace(-1, 1, ROWS)


def stats_of(x: np.ndarray) -> InputStats:
    def sums(part: np.ndarray) -> InputStats:
        return InputStats(part.mean(axis=0)[None], (part.T @ part / len(part))[None], len(part))

    return replace(sums(x), half=sums(x[: len(x) // 2]))


def problem(samples: int, seed: int = 1) -> tuple[Problem, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((samples, ROWS)) @ ROOT + OFFSET
    weight = np.random.default_rng(2).standard_normal((1, ROWS, 40))
    return Problem(weight, stats_of(x), Grid(3)), x


@pytest.mark.parametrize("centred", [True, False])
def test_it_is_the_variance_of_one_half_along_the_axes_of_the_other(centred: bool) -> None:
    one, x = problem(60)
    posed = pose(one, centred)
    wanted = np.zeros((ROWS, ROWS))
    for seen, unseen in ((x[:30], x[30:]), (x[30:], x[:30])):
        centre = seen.mean(axis=0) if centred else 0.0
        _, axes = np.linalg.eigh((seen - centre).T @ (seen - centre))
        variance = np.square((unseen - centre) @ axes).mean(axis=0)
        wanted += axes @ np.diag(variance) @ axes.T / 2
    got = estimated(one.stats, posed, centred)[0] * posed.level[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-9)


def test_max_effort_is_better_on_new_inputs() -> None:
    """Mean over draws of a layer with few samples; the test inputs are the true distribution."""
    truth = ROOT.T @ ROOT + np.outer(OFFSET, OFFSET)
    errors = {"normal": 0.0, "max": 0.0}
    for seed in range(6):
        one, _ = problem(3 * ROWS, seed)
        for effort in errors:
            answer = solve_layer(one, "comq", True, effort)
            error = one.weight[0] - answer.scale[0].astype(float) * answer.codes[0]
            shift = answer.bias[0] - OFFSET @ error
            errors[effort] += (
                np.einsum("km,kl,lm->", error, truth - np.outer(OFFSET, OFFSET), error) + shift @ shift
            )
    assert errors["max"] < errors["normal"]


def test_a_group_whose_inputs_are_all_zero_stays_zero() -> None:
    x = np.random.default_rng(3).standard_normal((2, 40, ROWS))
    x[1] = 0

    def sums(part: np.ndarray) -> InputStats:
        return InputStats(part.mean(axis=1), part.swapaxes(1, 2) @ part / part.shape[1], part.shape[1])

    stats = replace(sums(x), half=sums(x[:, :20]))
    posed = pose(Problem(np.ones((2, ROWS, 3)), stats, Grid(3)), True)
    found = estimated(stats, posed, True)
    assert np.isfinite(found).all()
    assert found[0].any()
    assert not found[1].any()
