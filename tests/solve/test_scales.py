"""Scale search and refit against least squares."""

import ml_dtypes
import numpy as np
import pytest
from scipy.optimize import nnls

from comq_onnx.backends.protocol import Backend
from comq_onnx.grid import Grid
from comq_onnx.records import Problem
from comq_onnx.solve.pose import pose, storable
from comq_onnx.solve.scales import absmax, block_refit, ratio_refit, searched


@pytest.mark.parametrize(("rows", "block"), [(48, 16), (40, 16), (33, 32), (16, 16)])
def test_block_refit_is_least_squares_on_the_samples(make_problem, rows: int, block: int) -> None:
    problem, x = make_problem(Grid(4, granularity="block", block_size=block), groups=2, rows=rows)
    weight, gram = problem.weight, problem.stats.gram
    blocks = -(-rows // block)
    p = np.rint(np.random.default_rng(0).normal(0.5, 0.5, weight.shape) + 4 * weight)
    old = np.full((2, blocks, weight.shape[2]), 0.2)
    pull = weight.swapaxes(1, 2) @ gram
    fresh = block_refit(gram, pull, p.swapaxes(1, 2), old.swapaxes(1, 2), block).swapaxes(1, 2)
    for g, m in np.ndindex(2, weight.shape[2]):
        parts = np.stack(
            [x[g][:, s : s + block] @ p[g, s : s + block, m] for s in range(0, rows, block)], axis=1
        )
        best, *_ = np.linalg.lstsq(parts, x[g] @ weight[g, :, m], rcond=None)
        if (best > 0).all():
            np.testing.assert_allclose(fresh[g, :, m], best, rtol=1e-6)


def test_block_refit_stays_positive_and_never_loses(make_problem) -> None:
    """Codes against the weight's sign want negative scales; SciPy's bounded answer is the floor."""
    problem, x = make_problem(Grid(4, granularity="block", block_size=16), rows=48, seed=2)
    rng = np.random.default_rng(1)
    p = rng.integers(-8, 8, problem.weight.shape).astype(float)
    p[:, :16, 0] = 0
    old = rng.uniform(0.05, 0.3, (1, 3, problem.weight.shape[2]))
    pull = problem.weight.swapaxes(1, 2) @ problem.stats.gram
    fresh = block_refit(problem.stats.gram, pull, p.swapaxes(1, 2), old.swapaxes(1, 2), 16).swapaxes(1, 2)
    assert (fresh > 0).all()
    assert fresh[0, 0, 0] == old[0, 0, 0]
    for m in range(problem.weight.shape[2]):
        parts = np.stack([x[0][:, s : s + 16] @ p[0, s : s + 16, m] for s in range(0, 48, 16)], axis=1)
        goal = x[0] @ problem.weight[0, :, m]
        before, after = (np.sum((goal - parts @ d[0, :, m]) ** 2) for d in (old, fresh))
        floor = nnls(parts, goal)[1] ** 2
        assert floor * (1 - 1e-9) <= after <= before * (1 + 1e-9)


def test_ratio_refit_keeps_what_it_cannot_improve() -> None:
    scale = np.full((1, 4, 1), 0.5)
    fresh = ratio_refit(scale, np.array([[2.0, -1.0, 0.0, 1.0]]), np.array([[4.0, 1.0, 0.0, 0.0]]), 0, np)
    assert fresh[0, :, 0].tolist() == [0.5, 0.5, 0.5, 0.5]
    assert ratio_refit(scale, np.full((1, 4), 3.0), np.full((1, 4), 4.0), 0, np)[0, 0, 0] == 0.75


def test_ratio_refit_pools_columns_that_share_a_scale() -> None:
    top, bottom = np.array([[1.0, 3.0, 8.0, 8.0]]), np.array([[2.0, 2.0, 1.0, 3.0]])
    assert ratio_refit(np.ones((1, 4, 1)), top, bottom, 2, np)[0, :, 0].tolist() == [1.0, 1.0, 4.0, 4.0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("granularity", ["channel", "tensor", "block"])
def test_search_beats_absmax_in_the_weighted_error(
    make_problem, backend: Backend, bits, symmetric, granularity
) -> None:
    grid = Grid(bits, symmetric, granularity, 16 if granularity == "block" else 0)
    posed = pose(make_problem(grid, groups=2, rows=40)[0], centred=True)
    diagonal = np.diagonal(posed.gram, axis1=1, axis2=2)[:, None]

    def total(scale: np.ndarray, zero: np.ndarray | None) -> float:
        size = posed.block
        d = np.repeat(scale, size, axis=2)[:, :, :40]
        z = 0.0 if zero is None else np.repeat(zero, size, axis=2)[:, :, :40]
        back = d * (np.clip(np.rint(posed.weight / d) + z, grid.lo, grid.hi) - z)
        return float((diagonal * (posed.weight - back) ** 2).sum())

    scale, zero = searched(posed, backend)
    assert (scale > 0).all()
    assert total(scale, zero) <= total(*absmax(posed, live_only=True)) * (1 + 1e-12)
    if zero is None:
        assert symmetric
    else:
        assert ((zero >= grid.lo) & (zero <= grid.hi) & (zero == np.rint(zero))).all()


def test_absmax_by_hand() -> None:
    weight = np.array([[[0.7, -3.0], [-1.4, 1.5], [0.1, 0.0]]])
    symmetric = pose(Problem(weight, None, Grid(4)), centred=False)
    scale, _ = absmax(symmetric, live_only=False)
    np.testing.assert_allclose(np.ldexp(scale, symmetric.exponent)[0, :, 0], [1.4 / 7, 3.0 / 7])
    lopsided = pose(Problem(weight, None, Grid(4, symmetric=False)), centred=False)
    scale, zero = absmax(lopsided, live_only=False)
    np.testing.assert_allclose(np.ldexp(scale, lopsided.exponent)[0, :, 0], [2.1 / 15, 4.5 / 15])
    assert zero is not None
    assert zero[0, :, 0].tolist() == [10.0, 10.0]


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16), ("float32", np.float32)]
)
def test_stored_scales_are_normal_numbers_of_their_type(dtype: str, kind: type) -> None:
    wanted = np.array([0.1, 1 / 3, 1e-60, 1e-6, 1e60, 1.0])
    kept = storable(wanted, dtype)
    assert np.array_equal(kept, kept.astype(kind).astype(np.float64))
    assert (kept >= float(ml_dtypes.finfo(kind).tiny)).all()
    assert np.isfinite(kept).all()
    np.testing.assert_allclose(kept[:2], wanted[:2], rtol=float(ml_dtypes.finfo(kind).eps))


@pytest.mark.parametrize("idle", [None, 0, 2])
def test_block_refit_of_blocks_that_move_together(idle: int | None) -> None:
    """Relaxing one scale at a time is far from the end after a few rounds; idle codes change nothing."""
    rng = np.random.default_rng(5)
    common = rng.standard_normal((200, 1))
    x = np.repeat(common, 48, axis=1) + 0.05 * rng.standard_normal((200, 48))
    p = rng.integers(1, 8, (1, 1, 48)).astype(float)
    if idle is not None:
        p[:, :, 16 * idle : 16 * idle + 16] = 0
    true = np.repeat([0.4, 0.1, 0.25], 16)
    pull, gram = (x.T @ (x @ (true * p[0, 0])))[None, None], (x.T @ x)[None]
    old = np.full((1, 1, 3), 0.3)
    fresh = block_refit(gram, pull, p, old, 16)[0, 0]
    wanted = [0.3 if idle == block else scale for block, scale in enumerate([0.4, 0.1, 0.25])]
    np.testing.assert_allclose(fresh, wanted, rtol=1e-4)
