"""The weights aimed at in a quantized network, against least squares on the rows themselves."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from comq_onnx.backends.engine import cpu_engine
from comq_onnx.grid import Grid, dequantize
from comq_onnx.records import Drift, InputStats, Problem
from comq_onnx.solve import target
from comq_onnx.solve.layer import solve_layer
from comq_onnx.solve.target import SHARE, STRENGTHS, UNJUDGED, corrected

ENGINE = cpu_engine(2)
GRID = Grid(bits=4, granularity="channel")
Rows = np.ndarray


def moments(x: Rows, floats: Rows) -> InputStats:
    """Of x' ``(groups, n, rows)`` and x, summed in float64."""
    gap, count = floats - x, x.shape[1]
    drift = Drift(gap.mean(axis=1), gap.swapaxes(1, 2) @ x / count, float((gap**2).sum() / (floats**2).sum()))
    return InputStats(x.mean(axis=1), x.swapaxes(1, 2) @ x / count, count, drift=drift)


def problem_of(x: Rows, floats: Rows, weight: np.ndarray, halved: bool = True, grid: Grid = GRID) -> Problem:
    cut = x.shape[1] // 2
    half = moments(x[:, :cut], floats[:, :cut]) if halved else None
    return Problem(weight, replace(moments(x, floats), half=half), grid)


def inputs(count: int, rows: int, groups: int = 1, seed: int = 0, mean: float = 1.0) -> Rows:
    """Correlated and not centred."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(groups, rows, rows)) / np.sqrt(rows) + 0.3 * np.eye(rows)
    return rng.normal(size=(groups, count, rows)) @ mix + mean


def weights(rows: int, cols: int, groups: int = 1, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(groups, rows, cols))


def linear(x: Rows, seed: int = 3, size: float = 0.2) -> Rows:
    """What the float network has where the quantized one has x': a linear map of it, and an offset."""
    rng = np.random.default_rng(seed)
    rows = x.shape[2]
    return x @ (np.eye(rows) + size * rng.normal(size=(rows, rows)) / np.sqrt(rows)) + 0.1 * rng.normal(
        size=rows
    )


@pytest.fixture
def at_strength(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def fix(strength: float) -> None:
        monkeypatch.setattr(target, "_chosen", lambda *_: strength)

    return fix


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("centred", [True, False])
def test_without_shrinkage_it_is_least_squares(at_strength, centred: bool, groups: int) -> None:
    rng = np.random.default_rng(1)
    x, weight = inputs(400, 12, groups), weights(12, 5, groups)
    floats = linear(x) + 0.1 * rng.normal(size=x.shape)
    at_strength(1e-12)
    found, _ = corrected(problem_of(x, floats, weight), centred, ENGINE)
    for group in range(groups):
        wanted = floats[group] @ weight[group]
        left = x[group]
        if centred:
            left, wanted = left - left.mean(axis=0), wanted - wanted.mean(axis=0)
        best = np.linalg.lstsq(left, wanted, rcond=None)[0]
        assert np.allclose(found[group], best, rtol=1e-6, atol=1e-8)


def test_a_linear_drift_without_noise_is_undone(at_strength) -> None:
    x, weight = inputs(400, 12), weights(12, 5)
    floats = linear(x)
    at_strength(1e-12)
    problem = problem_of(x, floats, weight)
    found, _ = corrected(problem, True, ENGINE)
    output, wanted = x @ found, floats @ weight
    assert np.allclose(output - output.mean(axis=1), wanted - wanted.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_shrinkage_is_ridge_regression_of_what_the_output_lacks(at_strength, strength: float) -> None:
    """Rows for lam below the rows of the data, and no target for them."""
    x, weight = inputs(300, 10), weights(10, 4)
    floats = linear(x) + 0.1 * np.random.default_rng(1).normal(size=x.shape)
    at_strength(strength)
    found, told = corrected(problem_of(x, floats, weight), True, ENGINE)
    left = (x[0] - x[0].mean(axis=0)) / np.sqrt(300)
    lacking = (floats[0] - x[0] - (floats[0] - x[0]).mean(axis=0)) @ weight[0] / np.sqrt(300)
    lam = strength * (left**2).sum(axis=0).mean()
    system = np.vstack([left, np.sqrt(lam) * np.eye(10)])
    change = np.linalg.lstsq(system, np.vstack([lacking, np.zeros((10, 4))]), rcond=None)[0]
    assert told == strength
    assert np.allclose(found[0], weight[0] + change, atol=1e-9)


def test_without_drift_the_weights_stay(at_strength) -> None:
    x, weight = inputs(300, 10), weights(10, 4)
    at_strength(np.inf)
    kept, strength = corrected(problem_of(x, linear(x), weight), True, ENGINE)
    assert (np.array_equal(kept, weight), strength) == (True, np.inf)
    at_strength(1e-9)
    none = problem_of(x, x, weight)
    for stats in (none.stats, replace(none.stats, drift=None), None):
        kept, strength = corrected(replace(none, stats=stats), True, ENGINE)
        assert (np.array_equal(kept, weight), strength) == (True, np.inf)


@pytest.mark.parametrize("centred", [True, False])
def test_dead_inputs_are_not_changed(centred: bool) -> None:
    """Constant ones where a bias is folded; those that are always zero in any case."""
    x = inputs(300, 10)
    x[:, :, 3] = 0
    if centred:
        x[:, :, 7] = 2.5
    floats, weight = linear(x), weights(10, 4)
    found, strength = corrected(problem_of(x, floats, weight), centred, ENGINE)
    assert np.isfinite(strength)
    dead = [3, 7] if centred else [3]
    assert np.array_equal(found[0, dead], weight[0, dead])
    rest = [i for i in range(10) if i not in dead]
    assert (found[0, rest] != weight[0, rest]).all()


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_inputs_that_are_all_dead(value: float) -> None:
    x = np.full((2, 40, 6), value)
    floats = x + 0.1 * np.random.default_rng(0).normal(size=x.shape)
    weight = weights(6, 3, 2)
    found, _ = corrected(problem_of(x, floats, weight), True, ENGINE)
    assert np.array_equal(found, weight)
    solution = solve_layer(problem_of(x, floats, weight), "comq", True)
    assert np.isfinite(solution.bias).all()


def test_noise_is_not_corrected_and_a_linear_drift_is() -> None:
    x, weight = inputs(200, 24), weights(24, 8)
    _, clean = corrected(problem_of(x, linear(x), weight), True, ENGINE)
    assert clean == SHARE * min(STRENGTHS)
    kept = []
    for seed in range(10):
        noise = 0.3 * np.random.default_rng(seed).normal(size=x.shape)
        kept.append(corrected(problem_of(x, x + noise, weight), True, ENGINE)[1])
    assert min(kept) >= SHARE * 1.0
    assert np.isinf(kept).sum() >= 3


def test_the_choice_is_no_worse_than_none_on_new_samples() -> None:
    """On average over few, noisy samples; an unshrunken change is far worse."""
    gained, raw = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x, weight = inputs(2000, 24, seed=seed), weights(24, 8, seed=seed)
        floats = linear(x, seed=seed, size=0.1) + 0.3 * rng.normal(size=x.shape)
        found, _ = corrected(problem_of(x[:, :60], floats[:, :60], weight), True, ENGINE)
        full = weight + target._change(
            target._moments(moments(x[:, :60], floats[:, :60]), True), weight, 1e-9, np.float64
        )
        wanted = (floats @ weight)[:, 60:]
        gaps = (wanted - x[:, 60:] @ aim for aim in (weight, found, full))
        plain, chosen, unshrunken = (gap.var(axis=1).sum() for gap in gaps)
        gained.append(chosen / plain)
        raw.append(unshrunken / plain)
    assert np.mean(gained) < 1
    assert np.mean(gained) < np.mean(raw)


def test_one_sample_is_corrected_by_rule() -> None:
    x = inputs(200, 10)
    _, strength = corrected(problem_of(x, linear(x), weights(10, 4), halved=False), True, ENGINE)
    assert strength == UNJUDGED


@pytest.mark.parametrize("factor", [2.0**-80, 2.0**80])
def test_the_size_of_the_inputs_changes_nothing(factor: float) -> None:
    """Where some of them are dead, too: squares are beyond float32."""
    x, weight = inputs(200, 10), weights(10, 4)
    x[:, :, 4] = 0
    plain = corrected(problem_of(x, linear(x), weight), True, ENGINE)
    scaled = corrected(problem_of(x * factor, linear(x) * factor, weight), True, ENGINE)
    assert plain[1] == scaled[1]
    assert np.allclose(plain[0], scaled[0], rtol=1e-9)


def test_the_size_of_the_weights_scales_the_change() -> None:
    x, weight = inputs(200, 10), weights(10, 4)
    plain = corrected(problem_of(x, linear(x), weight), True, ENGINE)
    scaled = corrected(problem_of(x, linear(x), 8 * weight), True, ENGINE)
    assert plain[1] == scaled[1]
    assert np.allclose(8 * plain[0], scaled[0], rtol=1e-12)


def test_read_only_arrays_and_nothing_written() -> None:
    x, weight = inputs(200, 10), weights(10, 4)
    problem = problem_of(x, linear(x), weight)
    arrays = [
        weight,
        problem.stats.gram,
        problem.stats.mean,
        problem.stats.drift.cross,
        problem.stats.drift.mean,
    ]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    corrected(problem, True, ENGINE)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


def test_threads_change_no_bit() -> None:
    x = inputs(200, 40)
    problem = problem_of(x, linear(x), weights(40, 50))
    one, three = (corrected(problem, True, cpu_engine(n))[0] for n in (1, 3))
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("solver", ["comq", "rtn", "gptq", "comq-paper"])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_folded_bias_makes_the_mean_output_the_float_one(solver: str, groups: int) -> None:
    x = inputs(300, 16, groups)
    floats, weight = linear(x) + 0.4, weights(16, 6, groups)
    solution = solve_layer(problem_of(x, floats, weight), solver, True)
    stored = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)
    output, wanted = x @ stored + solution.bias[:, None], floats @ weight
    assert np.allclose(output.mean(axis=1), wanted.mean(axis=1), atol=1e-6)


def test_a_solved_layer_is_nearer_to_the_float_output() -> None:
    """Than one solved for the float weights, by the rows themselves and on new ones."""
    x, weight = inputs(1200, 16), weights(16, 8)
    floats = linear(x)
    seen, unseen = slice(0, 800), slice(800, None)
    problem = problem_of(x[:, seen], floats[:, seen], weight)
    blind = replace(
        problem, stats=replace(problem.stats, drift=None, half=replace(problem.stats.half, drift=None))
    )

    def error(made: Problem) -> float:
        solution = solve_layer(made, "comq", True)
        stored = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)
        gap = floats[:, unseen] @ weight - x[:, unseen] @ stored - solution.bias[:, None]
        return float((gap**2).mean())

    assert error(problem) < 0.5 * error(blind)
