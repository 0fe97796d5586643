"""The loops of every backend against their definitions, one coordinate at a time."""

import numpy as np
import pytest

from comq_onnx.backends.protocol import Backend, Steps
from comq_onnx.solve.factor import coupling

SIZES = [(1, 1, 1, 1), (1, 9, 4, 1), (3, 9, 1, 1), (1, 150, 5, 1), (2, 70, 3, 4)]
"""groups, rows, columns, blocks: one row, a small layer, depthwise, several row blocks, scales by block"""


def make(size: tuple[int, int, int, int], seed: int = 0, whole: bool = True):
    """Gram, weight, steps record and starting steps."""
    groups, rows, cols, blocks = size
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 4 * rows + 3, rows)) @ rng.normal(size=(groups, rows, rows))
    gram = x.swapaxes(1, 2) @ x / x.shape[1]
    weight = rng.normal(size=(groups, rows, cols))
    scale = rng.uniform(0.2, 0.6, (groups, blocks, cols))
    lo = rng.integers(-6, -2, scale.shape).astype(float)
    block_of = np.stack([rng.permutation(np.arange(rows) * blocks // rows) for _ in range(groups)])
    steps = Steps(scale, lo, lo + 7, block_of)
    p = weight / steps.spread(scale)
    return gram, weight, steps, np.clip(np.rint(p), steps.spread(lo), steps.spread(lo + 7)) if whole else p


def cell(steps: Steps, g: int, k: int, m: int) -> tuple[float, float, float]:
    b = steps.block_of[g, k]
    return steps.scale[g, b, m], steps.lo[g, b, m], steps.hi[g, b, m]


def obq(gram: np.ndarray, weight: np.ndarray, steps: Steps) -> np.ndarray:
    """Optimal Brain Quantization in the given order: round a row, spread its error over the rows
    that are left with the inverse Hessian, drop the row from that inverse."""
    answer = np.empty_like(weight)
    for g, m in np.ndindex(weight.shape[0], weight.shape[2]):
        inverse, w = np.linalg.inv(gram[g]), weight[g, :, m].copy()
        for i in range(len(w)):
            scale, lo, hi = cell(steps, g, i, m)
            answer[g, i, m] = np.clip(np.rint(w[i] / scale), lo, hi)
            w = w - inverse[:, i] * (w[i] - scale * answer[g, i, m]) / inverse[i, i]
            inverse = inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
            inverse[i, :] = inverse[:, i] = 0
    return answer


def coordinate_descent(gram, weight, steps, p, order) -> np.ndarray:
    """The residual from scratch at every coordinate."""
    p = p.copy()
    for g, m in np.ndindex(weight.shape[0], weight.shape[2]):
        scales = steps.spread(steps.scale)[g, :, m]
        for i in order[g, :, m]:
            slope = gram[g, i] @ (weight[g, :, m] - scales * p[g, :, m])
            scale, lo, hi = cell(steps, g, i, m)
            p[g, i, m] = np.clip(np.rint(p[g, i, m] + slope / (scale * gram[g, i, i])), lo, hi)
    return p


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_feedback_is_obq_with_explicit_inverse_updates(backend: Backend, size) -> None:
    gram, weight, steps, _ = make(size)
    assert np.array_equal(backend.feedback(coupling(gram), weight, steps), obq(gram, weight, steps))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sweep_is_coordinate_descent(backend: Backend, size) -> None:
    gram, weight, steps, p = make(size)
    natural = np.broadcast_to(np.arange(size[1])[None, :, None], p.shape)
    expected = coordinate_descent(gram, weight, steps, p, natural)
    before, residual = p.copy(), gram @ (weight - steps.spread(steps.scale) * p)
    moved = backend.sweep(gram, residual, p, steps)
    assert np.array_equal(p, expected)
    np.testing.assert_allclose(residual, gram @ (weight - steps.spread(steps.scale) * p), atol=1e-9)
    assert (moved | (p == before).all(axis=1)).all()


@pytest.mark.parametrize("whole", [True, False], ids=["from codes", "from floats"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ordered_sweep_is_coordinate_descent_in_each_columns_order(
    backend: Backend, size, whole: bool
) -> None:
    gram, weight, steps, p = make(size, whole=whole)
    order = np.argsort(np.random.default_rng(3).random(p.shape), axis=1)
    expected = coordinate_descent(gram, weight, steps, p, order)
    residual = gram @ (weight - steps.spread(steps.scale) * p)
    backend.sweep_ordered(gram, residual, p, steps, order)
    assert np.array_equal(p, expected)
    np.testing.assert_allclose(residual, gram @ (weight - steps.spread(steps.scale) * p), atol=1e-9)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_no_sweep_raises_the_loss(backend: Backend, size) -> None:
    gram, weight, steps, p = make(size, seed=5)
    scale = steps.spread(steps.scale)
    last = np.inf
    for _ in range(6):
        backend.sweep(gram, gram @ (weight - scale * p), p, steps)
        error = weight - scale * p
        loss = np.einsum("gkm,gkl,glm->gm", error, gram, error)
        assert (loss <= last * (1 + 1e-12)).all()
        last = loss


def test_a_tie_does_not_move(backend: Backend) -> None:
    """Half-way between two codes both have the same loss; moving would only make sweeps endless."""
    steps = Steps(
        np.ones((1, 1, 1)), np.full((1, 1, 1), -8.0), np.full((1, 1, 1), 7.0), np.zeros((1, 1), int)
    )
    p = np.array([[[1.0]]])
    moved = backend.sweep(np.ones((1, 1, 1)), np.array([[[0.5]]]), p, steps)
    assert p.item() == 1.0
    assert not moved.any()


def test_rows_without_diagonal_are_left_alone(backend: Backend) -> None:
    gram, weight, steps, p = make((1, 9, 4, 1))
    gram[:, 3, :] = gram[:, :, 3] = 0
    p[:, 3] = steps.hi[:, 0]
    backend.sweep(gram, gram @ (weight - steps.scale * p), p, steps)
    assert np.array_equal(p[:, 3], steps.hi[:, 0])


def test_groups_are_independent(backend: Backend) -> None:
    gram, weight, steps, _ = make((3, 9, 1, 1))
    factor = coupling(gram)
    together = backend.feedback(factor, weight, steps)
    for g in range(3):
        one = slice(g, g + 1)
        alone = Steps(steps.scale[one], steps.lo[one], steps.hi[one], steps.block_of[one])
        assert np.array_equal(backend.feedback(factor[one], weight[one], alone), together[one])


def test_float32_stays_float32(backend: Backend) -> None:
    gram, weight, steps, p = (a if isinstance(a, Steps) else a.astype(np.float32) for a in make((1, 9, 4, 1)))
    narrow = Steps(*(a.astype(np.float32) for a in (steps.scale, steps.lo, steps.hi)), steps.block_of)
    residual = gram @ (weight - narrow.scale * p)
    backend.sweep(gram, residual, p, narrow)
    assert backend.feedback(coupling(gram), weight, narrow).dtype == p.dtype == residual.dtype == np.float32
