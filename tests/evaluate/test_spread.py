"""Histograms of weights and scales: counted one by one, in the grid's own units."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from evaluate.reporting import line
from graphs import model, weight

from comq_onnx.evaluate.spread import WORST, spread, worst_spreads
from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid, nearest
from comq_onnx.records import Layer, Quality, Solution

GRIDS = [
    Grid(4),
    Grid(4, symmetric=False),
    Grid(2, granularity="block", block_size=16),
    Grid(8, granularity="tensor"),
]


def solved(values: np.ndarray, grid: Grid, shrink: float = 1.0) -> Solution:
    """Rounded to scales that reach `shrink` of the largest weight of each block."""
    groups, rows, cols = values.shape
    blocks, block = grid.blocks(rows), grid.rows_per_block(rows)
    scale = np.empty((groups, blocks, cols), np.float32)
    zero = None if grid.symmetric else np.full(scale.shape, 7, np.uint8)
    for b in range(blocks):
        part = np.abs(values[:, b * block : (b + 1) * block])
        scale[:, b] = shrink * part.max(axis=1) / (grid.hi if grid.symmetric else 7)
    return Solution(grid, nearest(values, scale, zero, grid), scale, zero, None, Quality(1, 1, 1))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("shrink", [1.0, 0.5, 0.01])
def test_weights_are_counted_as_one_would_by_hand(grid: Grid, shrink: float) -> None:
    values = np.random.default_rng(3).normal(size=(2, 40, 5))
    solution = solved(values, grid, shrink)
    found = spread("a", values, solution)
    steps = []
    for g, r, c in np.ndindex(values.shape):
        b = r // grid.rows_per_block(40)
        zero = 0 if solution.zero_point is None else int(solution.zero_point[g, b, c])
        steps.append(values[g, r, c] / float(solution.scale[g, b, c]) + zero)
    outside = sum(s < grid.lo - 0.5 or s > grid.hi + 0.5 for s in steps) / len(steps)
    assert found.beyond == pytest.approx(outside)
    assert sum(found.weights.counts) == len(steps)
    assert grid.lo - 2 <= found.weights.low <= grid.lo
    assert grid.hi <= found.weights.high <= grid.hi + 2
    width = (found.weights.high - found.weights.low) / len(found.weights.counts)
    for at, count in enumerate(found.weights.counts[1:-1], 1):
        low = found.weights.low + at * width
        assert abs(count - sum(low <= s < low + width for s in steps)) <= 1  # rounding at the edges
    codes = solution.codes.ravel().tolist()
    assert found.lowest_code == grid.lo
    assert list(found.code_counts) == [codes.count(code) for code in range(grid.lo, grid.hi + 1)]
    assert found.scale_count == solution.scale.size == sum(found.scales.counts)
    assert 10**found.scales.low == pytest.approx(solution.scale.min())
    assert 10**found.scales.high == pytest.approx(solution.scale.max())


def test_one_scale_is_one_bin() -> None:
    values = np.random.default_rng(3).normal(size=(1, 8, 1))
    found = spread("a", values, solved(values, Grid(4)))
    assert found.scales.counts == (1,)


def test_the_worst_come_first_and_no_more_than_a_few() -> None:
    count = WORST + 3
    weights = {f"w{i}": weight(8, 8, seed=i) for i in range(count)}
    nodes = "".join(f"h{i + 1} = MatMul(h{i}, w{i})\n" for i in range(count))
    net = model(f"g (float[B,8] h0) => (float[B,8] h{count}) {{ {nodes} }}", **weights)
    for i, node in enumerate(net.graph.node):
        node.name = f"n{i}"
    layers = [
        Layer(f"n{i}", "MatMul", f"w{i}", f"h{i}", f"h{i + 1}", layout_of("matmul", (8, 8)), "float32")
        for i in range(count)
    ]
    solutions = {f"n{i}": solved(weights[f"w{i}"][None].astype(np.float64), Grid(4)) for i in range(count)}
    lines = [line(f"n{i}", 0.0, float((i * 5) % count)) for i in range(count)]
    lines[0], lines[1] = replace(lines[0], sqnr_after=None), replace(lines[1], sqnr_after=np.inf)
    found = worst_spreads(net, layers, solutions, lines)
    expected = sorted(range(2, count), key=lambda i: (i * 5) % count)[:WORST]
    assert [one.layer for one in found] == [f"n{i}" for i in expected]
    assert worst_spreads(onnx.ModelProto(), layers, solutions, lines[:2]) == ()
