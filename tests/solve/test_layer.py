"""Whole layers: bias and quality against means over samples, and every degenerate input."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comq_onnx.grid import Grid, dequantize
from comq_onnx.records import InputStats, Problem, Solution
from comq_onnx.solve.layer import SOLVERS, solve_layer


def stats_of(x: np.ndarray) -> InputStats:
    return InputStats(x.mean(axis=1), x.swapaxes(1, 2) @ x / x.shape[1], x.shape[1])


def check(problem: Problem, answer: Solution) -> np.ndarray:
    """What holds for every solution; returns the dequantized weight."""
    grid, (groups, rows, cols) = answer.grid, problem.weight.shape
    assert answer.codes.shape == problem.weight.shape
    assert answer.codes.dtype == grid.code_dtype
    assert answer.codes.min() >= grid.lo
    assert answer.codes.max() <= grid.hi
    assert answer.scale.shape == (groups, grid.blocks(rows), cols)
    assert answer.scale.dtype == np.float32
    assert (answer.scale > 0).all()
    assert np.isfinite(answer.scale).all()
    assert (answer.zero_point is None) == grid.symmetric
    if answer.zero_point is not None:
        assert answer.zero_point.shape == answer.scale.shape
        assert answer.zero_point.dtype == grid.code_dtype
        assert answer.zero_point.min() >= grid.lo
        assert answer.zero_point.max() <= grid.hi
    if grid.granularity == "tensor":
        assert np.unique(answer.scale).size == 1
        assert answer.zero_point is None or np.unique(answer.zero_point).size == 1
    if answer.bias is not None:
        assert answer.bias.shape == (groups, cols)
        assert np.isfinite(answer.bias).all()
    assert np.isfinite([answer.quality.signal, answer.quality.rtn, answer.quality.solved]).all()
    return dequantize(answer.codes, answer.scale, answer.zero_point, grid)


@pytest.mark.parametrize("compensate", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "grid", [Grid(4), Grid(3, symmetric=False, granularity="block", block_size=16)], ids=str
)
def test_bias_and_quality_are_means_over_samples(
    make_problem, grid: Grid, solver: str, compensate: bool
) -> None:
    problem, x = make_problem(grid, groups=2, rows=40)
    answer = solve_layer(problem, solver, compensate)
    wrong = x @ (problem.weight - check(problem, answer))
    if compensate:
        np.testing.assert_allclose(answer.bias, wrong.mean(axis=1), rtol=1e-9, atol=1e-9)
        wrong = wrong - answer.bias[:, None]
    else:
        assert answer.bias is None
    signal = np.square(x @ problem.weight).mean(axis=1).sum()
    assert answer.quality.signal == pytest.approx(signal, rel=1e-9)
    assert answer.quality.solved == pytest.approx(np.square(wrong).mean(axis=1).sum(), rel=1e-6)
    plain = solve_layer(problem, "rtn", False)
    nearest = x @ (problem.weight - check(problem, plain))
    assert answer.quality.rtn == pytest.approx(np.square(nearest).mean(axis=1).sum(), rel=1e-9)
    assert plain.quality.solved == pytest.approx(plain.quality.rtn, rel=1e-12)


@pytest.mark.parametrize("solver", ["rtn", "gptq", "comq-paper"])
def test_a_baselines_codes_do_not_depend_on_the_bias(make_problem, solver: str) -> None:
    problem, _ = make_problem(Grid(4))
    assert np.array_equal(solve_layer(problem, solver, True).codes, solve_layer(problem, solver, False).codes)


def test_comq_beats_the_baselines_with_their_bias(make_problem) -> None:
    for bits in (4, 3, 2):
        problem, _ = make_problem(Grid(bits), rows=96, cols=32, samples=5000)
        left = {solver: solve_layer(problem, solver, True).quality.solved for solver in SOLVERS}
        assert left["comq"] < min(left["gptq"], left["comq-paper"]) < left["rtn"], (bits, left)


def test_rtn_is_absmax_over_the_largest_code() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 30, 5))
    answer = solve_layer(Problem(weight, None, Grid(4)), "rtn", False)
    scale = (np.abs(weight).max(axis=1, keepdims=True) / 7).astype(np.float32)
    assert np.array_equal(answer.scale, scale)
    assert np.array_equal(answer.codes, np.rint(weight / scale.astype(float)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_activations_there_is_no_bias_and_a_note(solver: str) -> None:
    weight = np.random.default_rng(0).normal(size=(1, 20, 4))
    problem = Problem(weight, None, Grid(4))
    answer = solve_layer(problem, solver, True)
    check(problem, answer)
    assert answer.bias is None
    assert "no activations" in answer.note


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("magnitude", [1.0, 1e-7, 1e6])
def test_scales_are_what_the_file_can_hold(make_problem, solver: str, dtype: str, magnitude: float) -> None:
    made, _ = make_problem(Grid(4))
    problem = Problem(made.weight * magnitude, made.stats, made.grid, dtype)
    answer = solve_layer(problem, solver, True)
    check(problem, answer)
    kind = np.dtype({"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype))
    assert np.array_equal(answer.scale.astype(kind).astype(np.float32), answer.scale)
    assert (answer.scale >= float(ml_dtypes.finfo(kind).tiny)).all()


EDGES = {
    "one row": lambda rng: (rng.normal(size=(1, 1, 5)), rng.normal(size=(1, 9, 1))),
    "one column": lambda rng: (rng.normal(size=(1, 12, 1)), rng.normal(size=(1, 40, 12))),
    "one cell": lambda rng: (np.ones((1, 1, 1)), np.ones((1, 1, 1))),
    "equal weights": lambda rng: (np.full((1, 12, 3), 0.7), rng.normal(size=(1, 40, 12))),
    "a zero column": lambda rng: (rng.normal(size=(1, 12, 3)) * [1, 0, 1], rng.normal(size=(1, 40, 12))),
    "all zero weights": lambda rng: (np.zeros((1, 12, 3)), rng.normal(size=(1, 40, 12))),
    "all positive": lambda rng: (rng.uniform(5, 6, (1, 12, 3)), rng.normal(size=(1, 40, 12))),
    "all negative": lambda rng: (-rng.uniform(5, 6, (1, 12, 3)), rng.normal(size=(1, 40, 12))),
    "dead inputs": lambda rng: (
        rng.normal(size=(1, 12, 3)),
        rng.normal(size=(1, 40, 12)) * (np.arange(12) % 3 > 0),
    ),
    "all dead": lambda rng: (rng.normal(size=(1, 12, 3)), np.zeros((1, 40, 12))),
    "one sample": lambda rng: (rng.normal(size=(1, 12, 3)), rng.normal(size=(1, 1, 12))),
    "few samples": lambda rng: (rng.normal(size=(1, 40, 3)), rng.normal(size=(1, 7, 40))),
    "copied inputs": lambda rng: (
        rng.normal(size=(1, 40, 3)),
        np.repeat(rng.normal(size=(1, 90, 20)), 2, axis=2),
    ),
    "tiny": lambda rng: (rng.normal(size=(1, 12, 3)) * 1e-30, rng.normal(size=(1, 40, 12)) * 1e-12),
    "huge": lambda rng: (rng.normal(size=(1, 12, 3)) * 1e30, rng.normal(size=(1, 40, 12)) * 1e12),
    "uneven inputs": lambda rng: (
        rng.normal(size=(1, 12, 3)),
        rng.normal(size=(1, 90, 12)) * np.logspace(-6, 6, 12),
    ),
    "large mean": lambda rng: (rng.normal(size=(1, 12, 3)), rng.normal(size=(1, 90, 12)) + 1e4),
    "groups, one dead": lambda rng: (
        rng.normal(size=(3, 12, 2)),
        rng.normal(size=(3, 40, 12)) * [[[1]], [[0]], [[1]]],
    ),
}
EDGE_GRIDS = [
    Grid(2),
    Grid(4, symmetric=False),
    Grid(8),
    Grid(3, granularity="tensor"),
    Grid(2, symmetric=False, granularity="block", block_size=16),
]


@pytest.mark.parametrize("grid", EDGE_GRIDS, ids=str)
@pytest.mark.parametrize("edge", EDGES)
def test_degenerate_layers_are_solved(edge: str, grid: Grid) -> None:
    weight, x = EDGES[edge](np.random.default_rng(0))
    problem = Problem(weight, stats_of(x), grid)
    for solver in SOLVERS:
        for compensate in (True, False):
            answer = solve_layer(problem, solver, compensate)
            check(problem, answer)
            if solver == "comq":
                assert answer.quality.solved <= answer.quality.rtn * (1 + 1e-6) + 1e-9 * answer.quality.signal


def test_a_zero_column_is_exactly_zero() -> None:
    weight, x = EDGES["a zero column"](np.random.default_rng(0))
    for symmetric in (True, False):
        problem = Problem(weight, stats_of(x), Grid(4, symmetric=symmetric))
        for solver in SOLVERS:
            assert not check(problem, solve_layer(problem, solver, True))[:, :, 1].any()


def test_inputs_that_never_vary_are_noted() -> None:
    weight, x = EDGES["groups, one dead"](np.random.default_rng(0))
    assert "1 of 3 groups" in solve_layer(Problem(weight, stats_of(x), Grid(4)), "comq", True).note


@pytest.mark.parametrize("solver", SOLVERS)
def test_groups_in_one_call_are_groups_one_by_one(make_problem, solver: str) -> None:
    problem, x = make_problem(Grid(3), groups=5, rows=9, cols=2)
    together = solve_layer(problem, solver, True)
    for g in range(5):
        one = slice(g, g + 1)
        alone = solve_layer(Problem(problem.weight[one], stats_of(x[one]), problem.grid), solver, True)
        assert np.array_equal(alone.codes, together.codes[one])
        np.testing.assert_allclose(alone.scale, together.scale[one], rtol=3e-7)


def test_depthwise_layers_are_solved_in_one_call(make_problem) -> None:
    problem, _ = make_problem(Grid(4), groups=2000, rows=9, cols=1, samples=30)
    answer = solve_layer(problem, "comq", True)
    check(problem, answer)
    assert answer.quality.solved < 0.5 * solve_layer(problem, "rtn", True).quality.solved


def test_unknown_solvers_and_ill_fitting_grams_are_refused(make_problem) -> None:
    problem, _ = make_problem(Grid(4))
    with pytest.raises(ValueError, match="solver"):
        solve_layer(problem, "adaround", True)
    with pytest.raises(ValueError, match="effort"):
        solve_layer(make_problem(Grid(4))[0], "comq", True, "heroic")
    with pytest.raises(ValueError, match="does not fit"):
        solve_layer(Problem(problem.weight[:, 1:], problem.stats, problem.grid), "rtn", True)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 4)),
    samples=st.integers(1, 30),
    bits=st.sampled_from([2, 3, 4, 8]),
    symmetric=st.booleans(),
    granularity=st.sampled_from(["channel", "tensor", "block"]),
    exponents=st.tuples(st.integers(-30, 25), st.integers(-10, 10)),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    seed=st.integers(0, 999),
)
def test_any_layer_is_solved(shape, samples, bits, symmetric, granularity, exponents, dtype, seed) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=shape) * rng.choice([0, 1, 1, 1], shape) * 10.0 ** exponents[0]
    x = rng.normal(size=(shape[0], samples, shape[1])) * rng.choice([0, 1, 1], (shape[0], 1, shape[1]))
    x = x * 10.0 ** exponents[1] + rng.normal(size=(shape[0], 1, shape[1]))
    grid = Grid(bits, symmetric, granularity, 16 if granularity == "block" else 0)
    problem = Problem(weight, stats_of(x), grid, dtype)
    for solver in SOLVERS:
        check(problem, solve_layer(problem, solver, True))
