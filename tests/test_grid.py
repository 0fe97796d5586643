"""The law of `grid`, held against loops over single weights."""

import numpy as np
import pytest

from comq_onnx.grid import Grid, dequantize, nearest, spread

GRIDS = [
    Grid(bits, symmetric=symmetric, granularity=granularity, block_size=size)
    for bits in (2, 3, 4, 5, 6, 8)
    for symmetric in (True, False)
    for granularity, size in (("channel", 0), ("tensor", 0), ("block", 16))
]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_ranges_and_types(bits: int) -> None:
    signed, unsigned = Grid(bits), Grid(bits, symmetric=False)
    assert (signed.lo, signed.hi) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (unsigned.lo, unsigned.hi) == (0, 2**bits - 1)
    assert signed.code_dtype == np.int8
    assert unsigned.code_dtype == np.uint8


@pytest.mark.parametrize(("size", "rows", "blocks"), [(16, 40, 3), (16, 32, 2), (64, 40, 1), (256, 257, 2)])
def test_blocks_count_a_ragged_last_one(size: int, rows: int, blocks: int) -> None:
    assert Grid(4, granularity="block", block_size=size).blocks(rows) == blocks


def test_channel_and_tensor_have_one_block() -> None:
    assert Grid(4).blocks(40) == Grid(4, granularity="tensor").blocks(40) == 1


@pytest.mark.parametrize(
    "bad", [{"bits": 1}, {"bits": 4, "granularity": "block"}, {"bits": 4, "block_size": 16}]
)
def test_impossible_grids_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"bits must be|block_size"):
        Grid(**bad)


def test_names() -> None:
    assert str(Grid(4, granularity="block", block_size=64)) == "int4 b64"
    assert str(Grid(8, symmetric=False)) == "uint8 channel"


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_nearest_and_dequantize_against_single_weights(grid: Grid) -> None:
    rng = np.random.default_rng(0)
    groups, rows, cols = 2, 37, 3
    weight = rng.normal(size=(groups, rows, cols))
    blocks = grid.blocks(rows)
    scale = rng.uniform(0.1, 0.5, (groups, blocks, cols)).astype(np.float32)
    zero = None
    if not grid.symmetric:
        zero = rng.integers(grid.lo, grid.hi + 1, (groups, blocks, cols)).astype(grid.code_dtype)
    codes = nearest(weight, scale, zero, grid)
    back = dequantize(codes, scale, zero, grid)
    assert codes.dtype == grid.code_dtype
    allowed = np.arange(grid.lo, grid.hi + 1)
    for g, k, m in np.ndindex(weight.shape):
        b = k // grid.block_size if grid.block_size else 0
        points = float(scale[g, b, m]) * (allowed - (0.0 if zero is None else float(zero[g, b, m])))
        assert back[g, k, m] == points[int(codes[g, k, m]) - grid.lo]
        assert abs(back[g, k, m] - weight[g, k, m]) <= np.abs(points - weight[g, k, m]).min() + 1e-12


def test_spread_cuts_the_ragged_end() -> None:
    values = np.arange(6.0).reshape(1, 3, 2)
    assert spread(values, 5, 2)[0, :, 0].tolist() == [0, 0, 2, 2, 4]
