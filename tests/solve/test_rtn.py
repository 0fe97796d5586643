"""Rounding at a searched scale, against every scale in a fine row of them."""

import numpy as np
import pytest

from comq_onnx.grid import Grid, dequantize
from comq_onnx.records import Problem
from comq_onnx.solve.layer import solve_layer


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_the_searched_scale_is_next_to_the_best_of_two_thousand(bits: int) -> None:
    weight = np.random.default_rng(0).laplace(size=(1, 48, 7))
    answer = solve_layer(Problem(weight, None, Grid(bits)), "rtn-searched", False)
    assert answer.quality.solved < 0.8 * answer.quality.rtn
    lo, hi = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    best = 0.0
    for column in weight[0].T:
        scales = np.abs(column).max() / hi * np.linspace(0.05, 1.0, 2000)[:, None]
        left = column - scales * np.clip(np.rint(column / scales), lo, hi)
        best += np.square(left).sum(axis=1).min()
    assert answer.quality.solved < 1.02 * best
    values = dequantize(answer.codes, answer.scale, answer.zero_point, answer.grid)
    assert answer.quality.solved == pytest.approx(np.square(weight - values).sum(), rel=1e-9)


@pytest.mark.parametrize(
    "grid", [Grid(4, False), Grid(2, False, "block", 16), Grid(4, True, "tensor")], ids=str
)
def test_it_is_never_worse_than_the_scale_of_the_largest(grid: Grid) -> None:
    """In as many pieces as it takes: the layer is larger than one."""
    weight = np.random.default_rng(1).standard_t(4, size=(1, 64, 3000))
    answer = solve_layer(Problem(weight, None, grid), "rtn-searched", False)
    values = dequantize(answer.codes, answer.scale, answer.zero_point, grid)
    assert answer.quality.solved == pytest.approx(np.square(weight - values).sum(), rel=1e-9)
    assert answer.quality.solved < answer.quality.rtn
