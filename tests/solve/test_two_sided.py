"""The step for the first of two layers against brute force, naive sums and outputs computed in full."""

from itertools import product

import numpy as np
import pytest

from comq_onnx.backends.engine import cpu_engine
from comq_onnx.grid import Grid, dequantize
from comq_onnx.records import InputStats, Layout, Problem
from comq_onnx.solve.layer import solve_layer
from comq_onnx.solve.two_sided import Apart, Codes, Shared, descend, metric_of, resettled

BACKEND = cpu_engine(1).backend


def loss(metric: np.ndarray, gram: np.ndarray, error: np.ndarray) -> float:
    """``sum_cd M_cd e_c^T H e_d``, `error` ``(C, K)``, written out."""
    cols = range(len(metric))
    return sum(metric[c, d] * error[c] @ gram @ error[d] for c in cols for d in cols)


def tiny(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Codes]:
    """Metric, Gram, target and rounded two-bit codes: two inputs, two columns."""
    rng = np.random.default_rng(seed)
    reader, x = rng.standard_normal((2, 3)), rng.standard_normal((6, 2)) @ rng.standard_normal((2, 2))
    target, scale = rng.standard_normal((2, 2)), rng.uniform(0.4, 1.0, (2, 1))
    p = np.clip(np.rint(target / scale), -2, 1)
    codes = Codes(p, scale, np.full((2, 1), -2.0), np.full((2, 1), 1.0), 2)
    return reader @ reader.T, x.T @ x / len(x), target, codes


def test_tiny_problems_come_down_and_mostly_to_the_brute_force_optimum():
    reached = 0
    for seed in range(200):
        metric, gram, target, codes = tiny(seed)
        coupling = Shared(gram[None], target - codes.values)
        found = descend(coupling, metric, target, codes, BACKEND)
        before, after = (loss(metric, gram, target - c.values) for c in (codes, found))
        every = product(range(-2, 2), repeat=4)
        best = min(loss(metric, gram, target - codes.scale * np.reshape(p, (2, 2))) for p in every)
        assert best - 1e-9 <= after <= before + 1e-9
        reached += after <= best + 1e-9
    assert reached >= 120


def test_no_single_code_change_lowers_the_loss_of_the_answer():
    for seed in range(50):
        metric, gram, target, codes = tiny(seed)
        found = descend(Shared(gram[None], target - codes.values), metric, target, codes, BACKEND)
        after = loss(metric, gram, target - found.values)
        for c, k, value in product(range(2), range(2), range(-2, 2)):
            p = found.p.copy()
            p[c, k] = value
            assert loss(metric, gram, target - codes.scale * p) >= after - 1e-9


def test_without_coupling_it_is_the_layer_by_itself():
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((50, 8)), rng.standard_normal((3, 8))
    gram, scale = x.T @ x / 50, np.full((3, 1), 0.5)
    codes = Codes(np.clip(np.rint(target / scale), -4, 3), scale, np.full((3, 1), -4), np.full((3, 1), 3), 8)
    found = descend(
        Shared(gram[None], target - codes.values), np.diag([1.0, 5.0, 0.1]), target, codes, BACKEND
    )
    for c in range(3):
        one = Codes(codes.p[[c]], scale[[c]], codes.lo[[c]], codes.hi[[c]], 8)
        alone = descend(
            Shared(gram[None], target[[c]] - one.values), np.ones((1, 1)), target[[c]], one, BACKEND
        )
        np.testing.assert_array_equal(found.p[c], alone.p[0])


def test_columns_that_are_not_read_keep_their_codes():
    metric, gram, target, codes = tiny(3)
    metric = np.diag([metric[0, 0], 0.0])
    codes.p[1] = -2.0
    found = descend(Shared(gram[None], target - codes.values), metric, target, codes, BACKEND)
    np.testing.assert_array_equal(found.p[1], [-2.0, -2.0])


def test_groups_that_read_inputs_of_their_own_lower_the_mixed_error():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((5, 200, 1)) * 0.7 + rng.standard_normal((1, 200, 9))
    target, reader = rng.standard_normal((5, 9)), rng.standard_normal((5, 2))
    scale = np.abs(target).max(axis=1, keepdims=True) / 3
    codes = Codes(np.clip(np.rint(target / scale), -4, 3), scale, np.full((5, 1), -4), np.full((5, 1), 3), 9)
    coupling = Apart(rows, np.zeros(5), target - codes.values)
    found = descend(coupling, reader @ reader.T, target, codes, BACKEND)

    def mixed(codes: Codes) -> float:
        made = np.einsum("gnk,gk,go->no", rows, target - codes.values, reader)
        return float(np.square(made).sum())

    for g in range(5):
        one = Codes(codes.p[[g]], scale[[g]], codes.lo[[g]], codes.hi[[g]], 9)
        gram = rows[g].T @ rows[g] / 200
        found_g = descend(
            Shared(gram[None], target[[g]] - one.values), np.ones((1, 1)), target[[g]], one, BACKEND
        )
        codes.p[g] = found_g.p[0]
    assert mixed(found) < 0.5 * mixed(codes)


def test_the_metric_is_what_errors_make_at_the_output():
    rng = np.random.default_rng(2)
    weight, error = (
        rng.standard_normal((2, 3 * 4, 5)),
        rng.standard_normal((2, 3)),
    )  # 2 groups, 3 channels, 2x2
    metric = metric_of(weight, Layout("conv", (10, 3, 2, 2), 2, 12, 5), np.ones((6, 6)))
    made = sum(
        np.square(error[g] @ weight[g].reshape(3, 4, 5)[:, tap]).sum() for g in range(2) for tap in range(4)
    )
    flat = error.reshape(-1)
    assert flat @ metric @ flat == pytest.approx(made)
    assert not metric[:3, 3:].any()


def test_the_metric_weighs_slopes_as_rows_of_them_would():
    rng = np.random.default_rng(3)
    weight, slope, error = rng.standard_normal((1, 4, 6)), rng.random((30, 4)), rng.standard_normal(4)
    metric = metric_of(weight, Layout("matmul", (4, 6), 1, 4, 6), slope.T @ slope / 30)
    made = np.square((slope * error) @ weight[0]).sum(axis=1).mean()
    assert error @ metric @ error == pytest.approx(made)


@pytest.mark.parametrize(
    "grid", [Grid(3), Grid(2, symmetric=False), Grid(3, granularity="block", block_size=8)]
)
@pytest.mark.parametrize("groups", [1, 8])
def test_a_layer_resettled_has_less_error_behind_the_next_and_its_scales(grid, groups):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 400, 16)) + 0.5 * rng.standard_normal((groups, 400, 1)) + 1.0
    weight, reader = rng.standard_normal((groups, 16, 16 // groups)), rng.standard_normal((16, 3))
    stats = InputStats(x.mean(axis=1), x.swapaxes(1, 2) @ x / 400, 400)
    problem = Problem(weight, stats, grid)
    first = solve_layer(problem, "comq", True)
    second = resettled(problem, first, reader @ reader.T, x.astype(np.float32), True)
    float_ = np.concatenate(list(x @ weight), axis=1) @ reader

    def error(solution) -> float:
        written = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)
        made = np.concatenate(list(x @ written + solution.bias[:, None]), axis=1)
        return float(np.square(float_ - made @ reader).mean())

    assert error(second) < 0.8 * error(first)
    np.testing.assert_array_equal(second.scale, first.scale)
    assert second.codes.dtype == first.codes.dtype
    assert second.codes.min() >= grid.lo
    assert second.codes.max() <= grid.hi
    assert second.quality.solved >= first.quality.solved * 0.999  # by itself the layer only loses
    left = x @ (weight - dequantize(second.codes, second.scale, second.zero_point, grid))
    alone = float(np.square(left - left.mean(axis=1, keepdims=True)).mean(axis=1).sum())
    assert second.quality.solved == pytest.approx(alone, rel=1e-6)
