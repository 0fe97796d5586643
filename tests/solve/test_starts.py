"""Which of several starts is kept: the best of each column, or of all columns that share one scale."""

import numpy as np
import pytest

from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Backend
from comq_onnx.grid import Grid
from comq_onnx.solve.comq import explore, solve, task_of
from comq_onnx.solve.descent import Columns, loss
from comq_onnx.solve.effort import Settings
from comq_onnx.solve.factor import ordered
from comq_onnx.solve.pose import pose
from comq_onnx.solve.scales import bounds, searched

FACTORS = (0.4, 1.0, 0.7, 1.3)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_starts(make_problem, backend: Backend, granularity: str, seed: int) -> None:
    problem, _ = make_problem(Grid(3, granularity=granularity), rows=20, cols=5, seed=seed)
    posed = pose(problem, True, backend.xp)
    task = task_of(posed, ordered(posed, backend.xp.full(1, 0.01), backend))
    scale, zero = searched(posed, backend)
    first = Columns(task.weight, scale, *bounds(zero, posed))

    def losses(*rounds: tuple[float, ...]) -> np.ndarray:
        best, rest = explore(task, first, backend, Settings(rounds=rounds, kicks=0))
        return np.asarray(loss(task, best, rest))

    # A second round starts from the best scales of the first, so that each start is a round of its own here.
    alone = np.stack([losses((factor,)) for factor in FACTORS])
    together = losses(FACTORS)
    if granularity == "tensor":
        assert together.sum() == pytest.approx(alone.sum(axis=(1, 2)).min(), rel=1e-5)
    else:
        np.testing.assert_allclose(together, alone.min(axis=0), rtol=1e-5)
    assert losses(FACTORS, (1.0,)).sum() <= together.sum() * (1 + 1e-6)


def test_codes_are_searched_on_the_gram_that_is_given(make_problem, backend: Backend) -> None:
    """On a Gram without correlations there is nothing to make up for, and the true loss is higher."""
    problem, _ = make_problem(Grid(3), rows=32, cols=8, seed=3)
    posed, engine = pose(problem, True, backend.xp), Engine(backend)
    damping, settings = backend.xp.full(1, 0.01), Settings(rounds=((1.0,),), kicks=0)
    alone = backend.xp.asarray(np.diag(np.diag(np.asarray(posed.gram)[0]))[None])
    _, (own, _), _ = solve(posed, damping, engine, settings)
    _, (other, plain), _ = solve(posed, damping, engine, settings, gram=alone)
    assert float(own.sum()) < 0.8 * float(other.sum())
    assert float(other.sum()) <= float(plain.sum()) * (1 + 1e-6)
