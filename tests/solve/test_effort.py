"""What the levels of effort do, and that threads change nothing."""

from dataclasses import replace

import numpy as np
import pytest

from comq_onnx.backends import numba_
from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Backend
from comq_onnx.grid import Grid
from comq_onnx.records import Problem
from comq_onnx.solve.effort import EFFORTS, SHORT_ROWS, SPECTRUM_ROWS, settings_for
from comq_onnx.solve.layer import SOLVERS, solve_layer


def halved(problem: Problem, x: np.ndarray) -> Problem:
    """The problem with statistics of the first half of its samples beside the whole."""
    part = x[:, : x.shape[1] // 2]
    half = replace(
        problem.stats,
        mean=part.mean(axis=1),
        gram=part.swapaxes(1, 2) @ part / part.shape[1],
        count=part.shape[1],
    )
    return replace(problem, stats=replace(problem.stats, half=half))


def test_more_effort_is_a_lower_loss(make_problem) -> None:
    """At one damping, since what is searched is the damped loss; the means of six layers."""
    losses = dict.fromkeys(EFFORTS, 0.0)
    for seed in range(6):
        problem, _ = make_problem(Grid(3), rows=96, cols=24, seed=seed, samples=4000)
        for effort in losses:
            quality = solve_layer(problem, "comq", True, effort).quality
            losses[effort] += quality.solved / quality.signal
    assert losses["max"] < losses["normal"] < 0.97 * losses["fast"]


def test_short_columns_try_every_start_and_long_ones_keep_their_spectrum() -> None:
    assert len(settings_for("normal", SHORT_ROWS).rounds) == len(EFFORTS["max"].rounds)
    assert settings_for("normal", SHORT_ROWS + 1) == EFFORTS["normal"]
    assert settings_for("max", SPECTRUM_ROWS).spectrum
    assert not settings_for("max", SPECTRUM_ROWS + 1).spectrum


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "grid", [Grid(4), Grid(2, False, "block", 32), Grid(4, granularity="tensor")], ids=str
)
def test_the_bits_do_not_depend_on_the_threads(make_problem, grid: Grid, solver: str, effort: str) -> None:
    """A layer of several pieces, on the compiled backend."""
    if effort != "normal" and solver != "comq":
        pytest.skip("only comq has levels of effort")
    problem = halved(*make_problem(grid, rows=200, cols=150, samples=900))
    answers = [
        solve_layer(problem, solver, True, effort, Engine(numba_, threads, cells=1 << 12))  # type: ignore[arg-type]
        for threads in (1, 2, 3)
    ]
    for other in answers[1:]:
        for name in ("codes", "scale", "bias"):
            assert getattr(answers[0], name).tobytes() == getattr(other, name).tobytes()
        assert answers[0].quality == other.quality


def test_the_pieces_of_a_layer_are_solved_as_the_whole(make_problem, backend: Backend) -> None:
    problem = halved(*make_problem(Grid(3), groups=3, rows=40, cols=7, samples=300))
    whole = solve_layer(problem, "comq", True, "fast", Engine(backend, 1, cells=1 << 20))
    pieces = solve_layer(problem, "comq", True, "fast", Engine(backend, 1, cells=1))
    assert np.array_equal(whole.codes, pieces.codes)
    np.testing.assert_allclose(whole.scale, pieces.scale, rtol=1e-6)
