"""Grids of any kind: codes are the nearest there are, and stand for what the law says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from comq_onnx.grid import BITS, Grid, dequantize, nearest, spread


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    granularity = draw(st.sampled_from(["block", "channel", "tensor"]))
    size = draw(st.sampled_from([1, 2, 3, 16, 32])) if granularity == "block" else 0
    return Grid(draw(st.sampled_from(BITS)), draw(st.booleans()), granularity, size)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Grid, np.ndarray, np.ndarray, np.ndarray | None]:
    """A grid, a weight, scales and zero points of its blocks."""
    grid = draw(grids())
    groups, rows, cols = (draw(st.integers(1, high)) for high in (2, 9, 3))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    weight = rng.standard_normal((groups, rows, cols)) * 10.0 ** draw(st.integers(-4, 4))
    per_block = (groups, grid.blocks(rows), cols)
    scale = np.abs(weight).max() * rng.uniform(0.01, 1, per_block).astype(np.float32)
    zero = None if grid.symmetric else rng.integers(grid.lo, grid.hi + 1, per_block).astype(grid.code_dtype)
    return grid, weight, scale, zero


@given(problems())
def test_no_code_is_nearer(problem: tuple[Grid, np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    grid, weight, scale, zero = problem
    codes = nearest(weight, scale, zero, grid)
    assert codes.dtype == grid.code_dtype
    assert codes.min() >= grid.lo
    assert codes.max() <= grid.hi
    chosen = np.abs(dequantize(codes, scale, zero, grid) - weight)
    for code in range(grid.lo, grid.hi + 1):
        other = dequantize(np.full(weight.shape, code, grid.code_dtype), scale, zero, grid)
        assert (chosen <= np.abs(other - weight) * (1 + 1e-9) + 1e-12 * np.abs(weight).max()).all()


@given(problems())
def test_what_codes_stand_for_has_these_codes(
    problem: tuple[Grid, np.ndarray, np.ndarray, np.ndarray | None],
) -> None:
    grid, weight, scale, zero = problem
    codes = nearest(weight, scale, zero, grid)
    assert np.array_equal(nearest(dequantize(codes, scale, zero, grid), scale, zero, grid), codes)


@given(problems())
def test_the_law_for_each_weight(problem: tuple[Grid, np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    grid, weight, scale, zero = problem
    codes = nearest(weight, scale, zero, grid)
    found = dequantize(codes, scale, zero, grid)
    assert found.dtype == np.float64
    for g, k, m in np.ndindex(*weight.shape):
        block = k // grid.block_size if grid.granularity == "block" else 0
        offset = 0 if zero is None else int(zero[g, block, m])
        assert found[g, k, m] == float(scale[g, block, m]) * (int(codes[g, k, m]) - offset)


@given(grids(), st.integers(1, 200))
def test_blocks_cover_the_rows(grid: Grid, rows: int) -> None:
    block, blocks = grid.rows_per_block(rows), grid.blocks(rows)
    assert 1 <= block <= rows
    assert (blocks - 1) * block < rows <= blocks * block
    assert grid.hi - grid.lo + 1 == 2**grid.bits
    numbers = np.arange(blocks, dtype=np.float32)[None, :, None]
    found = spread(numbers, rows, block)
    assert found.shape == (1, rows, 1)
    assert found[0, :, 0].tolist() == [row // block for row in range(rows)]
