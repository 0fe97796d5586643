"""The loops of every backend against their definitions, one coordinate at a time."""

import itertools

import numpy as np
import pytest

from comq_onnx.backends.protocol import Backend, Steps
from comq_onnx.solve.factor import coupling

SIZES = [(1, 1, 1, 1), (1, 4, 9, 1), (3, 1, 9, 1), (1, 5, 150, 1), (2, 3, 70, 4)]
"""groups, columns, rows, blocks: one row, a small layer, depthwise, several row blocks, scales by block"""


def make(size: tuple[int, int, int, int], seed: int = 0, whole: bool = True):
    """Gram, weight, steps record and starting steps."""
    groups, cols, rows, blocks = size
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 4 * rows + 3, rows)) @ rng.normal(size=(groups, rows, rows))
    gram = x.swapaxes(1, 2) @ x / x.shape[1]
    weight = rng.normal(size=(groups, cols, rows))
    scale = rng.uniform(0.2, 0.6, (groups, cols, blocks))
    lo = rng.integers(-6, -2, scale.shape).astype(float)
    block_of = np.stack([rng.permutation(np.arange(rows) * blocks // rows) for _ in range(groups)])
    steps = Steps(scale, lo, lo + 7, block_of)
    p = weight / steps.spread(scale)
    return gram, weight, steps, np.clip(np.rint(p), steps.spread(lo), steps.spread(lo + 7)) if whole else p


def factor_of(gram: np.ndarray, backend: Backend) -> np.ndarray:
    groups, rows, _ = gram.shape
    return coupling(gram, np.ones((groups, rows), dtype=bool), np.zeros(groups, gram.dtype), backend)


def cell(steps: Steps, g: int, m: int, k: int) -> tuple[float, float, float]:
    b = steps.block_of[g, k]
    return steps.scale[g, m, b], steps.lo[g, m, b], steps.hi[g, m, b]


def loss(gram: np.ndarray, weight: np.ndarray, steps: Steps, p: np.ndarray) -> np.ndarray:
    error = weight - steps.spread(steps.scale) * p
    return np.einsum("gmk,gkl,gml->gm", error, gram, error)


def rest_of(gram: np.ndarray, weight: np.ndarray, steps: Steps, p: np.ndarray) -> np.ndarray:
    return (weight - steps.spread(steps.scale) * p) @ gram


def obq(gram: np.ndarray, weight: np.ndarray, steps: Steps) -> np.ndarray:
    """Optimal Brain Quantization in the given order: round a row, spread its error over the rows
    that are left with the inverse Hessian, drop the row from that inverse."""
    answer = np.empty_like(weight)
    for g, m in np.ndindex(weight.shape[:2]):
        inverse, w = np.linalg.inv(gram[g]), weight[g, m].copy()
        for i in range(len(w)):
            scale, lo, hi = cell(steps, g, m, i)
            answer[g, m, i] = np.clip(np.rint(w[i] / scale), lo, hi)
            w = w - inverse[:, i] * (w[i] - scale * answer[g, m, i]) / inverse[i, i]
            inverse = inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
            inverse[i, :] = inverse[:, i] = 0
    return answer


def coordinate_descent(gram, weight, steps, p, order, sweeps: int = 1) -> np.ndarray:
    """The residual from scratch at every coordinate."""
    p = p.copy()
    for g, m in np.ndindex(weight.shape[:2]):
        scales = np.array([cell(steps, g, m, k)[0] for k in range(p.shape[2])])
        for i in np.tile(order[g, m], sweeps):
            slope = gram[g, i] @ (weight[g, m] - scales * p[g, m])
            scale, lo, hi = cell(steps, g, m, i)
            p[g, m, i] = np.clip(np.rint(p[g, m, i] + slope / (scale * gram[g, i, i])), lo, hi)
    return p


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rounding_error_is_a_weighted_sum_of_squares(backend: Backend, size) -> None:
    gram, weight, shuffled, _ = make(size)
    steps = Steps(shuffled.scale, shuffled.lo, shuffled.hi, np.sort(shuffled.block_of, axis=1))
    importance = np.diagonal(gram, axis1=1, axis2=2).copy()
    total = np.zeros(steps.scale.shape)
    for g, m, k in np.ndindex(weight.shape):
        scale, lo, hi = cell(steps, g, m, k)
        error = weight[g, m, k] - scale * np.clip(np.rint(weight[g, m, k] / scale), lo, hi)
        total[g, m, steps.block_of[g, k]] += importance[g, k] * error**2
    small = Steps(steps.scale / 0.5, steps.lo, steps.hi, steps.block_of)
    both = backend.rounding_errors(weight, importance, small, (1.0, 0.5))
    np.testing.assert_allclose(both[1], total, rtol=1e-12)
    assert (both[0] != both[1]).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cholesky_is_a_factor(backend: Backend, size) -> None:
    gram, *_ = make(size)
    lower = np.tril(backend.cholesky(gram.copy()))
    np.testing.assert_allclose(lower @ lower.swapaxes(1, 2), gram, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_coupling_is_the_unit_upper_factor_of_the_damped_gram(backend: Backend, size) -> None:
    gram, *_ = make(size)
    groups, _, rows, _ = size
    live = np.arange(rows)[None] < max(rows - 2, 1)
    live = np.repeat(live, groups, axis=0)
    gram *= live[:, :, None] & live[:, None, :]
    before = gram.copy()
    unit = np.triu(coupling(gram, live, np.full(groups, 0.3), backend), 1) + np.eye(rows)
    damped = gram + np.eye(rows) * np.where(live, 0.3, 1.0)[:, None, :]
    inner = np.linalg.solve(unit, np.linalg.solve(unit, damped).swapaxes(1, 2))
    pivots = np.diagonal(inner, axis1=1, axis2=2)
    assert (pivots > 0).all()
    np.testing.assert_allclose(inner, pivots[:, None] * np.eye(rows), atol=1e-8 * np.abs(gram).max())
    assert np.array_equal(gram, before)


@pytest.mark.parametrize("rows", [3, 80])
def test_cholesky_refuses_what_is_not_positive_definite(backend: Backend, rows: int) -> None:
    gram = np.eye(rows)[None].copy()
    gram[0, 2, 2] = -1
    with pytest.raises(np.linalg.LinAlgError):
        backend.cholesky(gram)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_feedback_is_obq_with_explicit_inverse_updates(backend: Backend, size) -> None:
    gram, weight, steps, _ = make(size)
    assert np.array_equal(backend.feedback(factor_of(gram, backend), weight, steps), obq(gram, weight, steps))


@pytest.mark.parametrize("sweeps", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_sweep_is_coordinate_descent(backend: Backend, size, sweeps: int) -> None:
    gram, weight, steps, p = make(size)
    natural = np.broadcast_to(np.arange(size[2])[None, None], p.shape)
    expected = coordinate_descent(gram, weight, steps, p, natural, sweeps)
    before, residual = p.copy(), rest_of(gram, weight, steps, p)
    moved = backend.descend(gram, weight @ gram, residual, p, steps, sweeps, False)
    assert np.array_equal(p, expected)
    np.testing.assert_allclose(residual, rest_of(gram, weight, steps, p), atol=1e-8)
    assert np.array_equal(moved, (p != before).any(axis=2)) or sweeps > 1
    assert (moved | (p == before).all(axis=2)).all()


@pytest.mark.parametrize("whole", [True, False], ids=["from codes", "from floats"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ordered_sweep_is_coordinate_descent_in_each_columns_order(
    backend: Backend, size, whole: bool
) -> None:
    gram, weight, steps, p = make(size, whole=whole)
    order = np.argsort(np.random.default_rng(3).random(p.shape), axis=2)
    expected = coordinate_descent(gram, weight, steps, p, order)
    residual = rest_of(gram, weight, steps, p)
    backend.sweep_ordered(gram, residual, p, steps, order)
    assert np.array_equal(p, expected)
    np.testing.assert_allclose(residual, rest_of(gram, weight, steps, p), atol=1e-8)


@pytest.mark.parametrize("size", [s for s in SIZES if s[3] == 1], ids=str)
def test_a_refit_is_least_squares_for_the_codes(backend: Backend, size) -> None:
    """After one sweep with refit the scale is that of scalar least squares on a factor of the Gram."""
    gram, weight, steps, p = make(size)
    old = steps.scale.copy()
    residual = rest_of(gram, weight, steps, p)
    backend.descend(gram, weight @ gram, residual, p, steps, 1, True)
    for g, m in np.ndindex(weight.shape[:2]):
        root = np.linalg.cholesky(gram[g]).T
        codes, goal = root @ p[g, m], root @ weight[g, m]
        best = codes @ goal / (codes @ codes) if p[g, m].any() else -1.0
        assert steps.scale[g, m, 0] == pytest.approx(best if best > 0 else old[g, m, 0], rel=2e-5)
    np.testing.assert_allclose(residual, rest_of(gram, weight, steps, p), atol=1e-8)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_no_sweep_raises_the_loss(backend: Backend, size, refit: bool) -> None:
    if refit and size[3] > 1:
        pytest.skip("blocks are refitted by normal equations")
    gram, weight, steps, p = make(size, seed=5)
    last = loss(gram, weight, steps, p)
    for _ in range(6):
        residual = rest_of(gram, weight, steps, p)
        backend.descend(gram, weight @ gram, residual, p, steps, 1, refit)
        now = loss(gram, weight, steps, p)
        assert (now <= last * (1 + 1e-9) + 1e-15).all()
        last = now


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_descent_ends_where_no_change_of_one_code_helps(backend: Backend, size) -> None:
    gram, weight, steps, p = make(size, seed=2)
    backend.descend(gram, weight @ gram, rest_of(gram, weight, steps, p), p, steps, 99, False)
    low, high = (np.broadcast_to(steps.spread(values), p.shape) for values in (steps.lo, steps.hi))
    assert ((p >= low) & (p <= high) & (p == np.rint(p))).all()
    base = loss(gram, weight, steps, p)
    for i, delta in itertools.product(range(size[2]), (-2, -1, 1, 2)):
        other = p.copy()
        other[:, :, i] = np.clip(other[:, :, i] + delta, low[:, :, i], high[:, :, i])
        assert (loss(gram, weight, steps, other) >= base * (1 - 1e-12)).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kicks_keep_the_residual_and_only_lower_the_loss(backend: Backend, size) -> None:
    gram, weight, steps, p = make(size, seed=4)
    residual = rest_of(gram, weight, steps, p)
    backend.descend(gram, weight @ gram, residual, p, steps, 99, False)
    last = first = loss(gram, weight, steps, p)
    for turn in range(5):
        backend.kick(gram, residual, p, steps, np.random.default_rng(turn).random((8, 4)))
        now = loss(gram, weight, steps, p)
        assert (now <= last * (1 + 1e-12)).all()
        np.testing.assert_allclose(residual, rest_of(gram, weight, steps, p), atol=1e-8)
        last = now
    low, high = (np.broadcast_to(steps.spread(values), p.shape) for values in (steps.lo, steps.hi))
    assert ((p >= low) & (p <= high) & (p == np.rint(p))).all()
    if size[2] >= 70:
        assert (last < first).all()


def test_kicks_find_the_optimum_of_small_problems(backend: Backend) -> None:
    """Against brute force, from rounding to nearest alone."""
    gram, weight, steps, p = make((1, 40, 6, 1), seed=7)
    codes = np.array(list(itertools.product(range(8), repeat=6)), dtype=float)
    residual = rest_of(gram, weight, steps, p)
    backend.descend(gram, weight @ gram, residual, p, steps, 99, False)
    alone = loss(gram, weight, steps, p)
    backend.kick(gram, residual, p, steps, np.random.default_rng(0).random((60, 3)))
    got, best = loss(gram, weight, steps, p)[0], np.empty(40)
    for m in range(40):
        errors = weight[0, m] - steps.scale[0, m, 0] * (codes + steps.lo[0, m, 0])
        best[m] = np.einsum("ni,ij,nj->n", errors, gram[0], errors).min()
    assert (got >= best * (1 - 1e-9)).all()
    found, before = ((values <= best * (1 + 1e-9)).sum() for values in (got, alone[0]))
    assert found >= 30, (before, found)
    assert before < 20


def test_a_tie_does_not_move(backend: Backend) -> None:
    """Half-way between two codes both have the same loss; moving would only make sweeps endless."""
    whole = np.ones((1, 1, 1))
    steps = Steps(whole, -8 * whole, 7 * whole, np.zeros((1, 1), int))
    p, residual = np.array([[[1.0]]]), np.array([[[0.5]]])
    moved = backend.descend(whole, whole, residual, p, steps, 1, False)
    assert p.item() == 1.0
    assert not moved.any()


def test_rows_without_diagonal_are_left_alone(backend: Backend) -> None:
    gram, weight, steps, p = make((1, 4, 9, 1))
    gram[:, 3, :] = gram[:, :, 3] = 0
    p[:, :, 3] = steps.hi[:, :, 0]
    residual = rest_of(gram, weight, steps, p)
    backend.descend(gram, weight @ gram, residual, p, steps, 9, False)
    assert np.array_equal(p[:, :, 3], steps.hi[:, :, 0])


def test_groups_and_columns_are_independent(backend: Backend) -> None:
    gram, weight, steps, p = make((3, 4, 40, 1))
    factor, picks = factor_of(gram, backend), np.random.default_rng(0).random((9, 4))
    together = backend.feedback(factor, weight, steps)
    kicked, rest = p.copy(), rest_of(gram, weight, steps, p)
    backend.kick(gram, rest.copy(), kicked, steps, picks)
    for g, m in np.ndindex(3, 4):
        one, cell_ = slice(g, g + 1), (slice(g, g + 1), slice(m, m + 1))
        parts = (np.ascontiguousarray(v[cell_]) for v in (steps.scale, steps.lo, steps.hi))
        alone = Steps(*parts, steps.block_of[one])
        mine = np.ascontiguousarray(weight[cell_])
        assert np.array_equal(backend.feedback(factor[one], mine, alone), together[cell_])
        mine = np.ascontiguousarray(p[cell_])
        backend.kick(gram[one], np.ascontiguousarray(rest[cell_]), mine, alone, picks)
        assert np.array_equal(mine, kicked[cell_])


@pytest.mark.parametrize("blocks", [1, 2])
def test_bounds_may_be_shared_by_all_columns(backend: Backend, blocks: int) -> None:
    gram, weight, steps, _ = make((2, 3, 20, blocks))
    low, high = np.full((1, 1, 1), -2.0), np.full((1, 1, 1), 1.0)
    spread = Steps(
        steps.scale, *(np.broadcast_to(v, steps.scale.shape).copy() for v in (low, high)), steps.block_of
    )
    answers = []
    for chosen in (Steps(steps.scale, low, high, steps.block_of), spread):
        codes = backend.feedback(factor_of(gram, backend), weight, chosen)
        residual = rest_of(gram, weight, chosen, codes)
        backend.descend(gram, weight @ gram, residual, codes, chosen, 5, False)
        backend.kick(gram, residual, codes, chosen, np.random.default_rng(0).random((5, 2)))
        answers.append(codes)
    assert np.array_equal(*answers)
    assert answers[0].min() == -2
    assert answers[0].max() == 1


def test_float32_stays_float32_and_close(backend: Backend) -> None:
    gram, weight, steps, p = make((1, 6, 70, 1))
    wide = p.copy()
    backend.descend(gram, weight @ gram, rest_of(gram, weight, steps, p), wide, steps, 50, False)
    gram, weight, p = (a.astype(np.float32) for a in (gram, weight, p))
    narrow = Steps(*(a.astype(np.float32) for a in (steps.scale, steps.lo, steps.hi)), steps.block_of)
    residual = rest_of(gram, weight, narrow, p)
    backend.descend(gram, weight @ gram, residual, p, narrow, 50, False)
    assert (
        backend.feedback(factor_of(gram, backend), weight, narrow).dtype
        == p.dtype
        == residual.dtype
        == np.float32
    )
    assert (p == wide).mean() > 0.95
