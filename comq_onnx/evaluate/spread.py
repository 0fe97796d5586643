"""How the weights and the scales of a layer are spread, as histograms small enough for a report.

A layer has many scales, so its weights are counted in steps of their own scale: what `grid` calls
``W / scale + zero point``. There the codes are the whole numbers from the lowest to the highest, whatever
the scales are, and how well the grid fits the weights can be seen for all channels at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from comq_onnx.graph.io import load
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.grid import spread as over_rows
from comq_onnx.records import Layer, LayerReport, Solution

WORST = 6
"""Layers that are looked at: those of the lowest SQNR"""
WEIGHT_BINS, SCALE_BINS = 48, 20
MARGIN = 2.0
"""Most steps below the lowest and above the highest code that the histogram reaches; what lies further out
is counted at its edge"""


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of equal width."""

    low: float
    """Where the first bin begins"""
    high: float
    """Where the last bin ends"""
    counts: tuple[int, ...]
    """Values in each bin, from low to high"""


@dataclass(frozen=True)
class Spread:
    """The float weights of a layer beside the codes that stand for them, and its scales."""

    layer: str
    """Name of the node"""
    weights: Histogram
    """Float weights in steps of their own scale, zero point added: codes are the whole numbers there"""
    lowest_code: int
    """Of the grid; `code_counts` begins with it"""
    code_counts: tuple[int, ...]
    """How many weights have each code, from the lowest to the highest"""
    beyond: float
    """Share of the float weights that lie more than half a step outside the codes"""
    scales: Histogram
    """Logarithms to base 10 of the scales; a scale that several blocks repeat is counted for each"""
    scale_count: int
    """Scales in all: channels times blocks of rows"""


def worst_spreads(
    prepared: onnx.ModelProto,
    layers: Sequence[Layer],
    solutions: Mapping[str, Solution],
    lines: Sequence[LayerReport],
) -> tuple[Spread, ...]:
    """Of the `WORST` layers whose outputs are furthest from the float ones, worst first.

    `prepared` holds the float weights. A layer without a finite SQNR is none of them.
    """
    known = {layer.name: layer for layer in layers}
    told = [(line.sqnr_after, line.name) for line in lines if line.sqnr_after is not None]
    worst = sorted(pair for pair in told if math.isfinite(pair[0]) and pair[1] in known)[:WORST]
    if not worst:
        return ()
    model, found = load(prepared), []
    for _, name in worst:
        weight = to_rows(weight_values(model, known[name]), known[name].layout)
        found.append(spread(name, weight, solutions[name]))
    return tuple(found)


def spread(layer: str, weight: np.ndarray, solution: Solution) -> Spread:
    """The histograms of one layer; `weight` is ``(groups, rows, cols)`` of finite floats."""
    grid, rows = solution.grid, weight.shape[1]
    block = grid.rows_per_block(rows)
    steps = weight / over_rows(solution.scale.astype(np.float64), rows, block)
    if solution.zero_point is not None:
        steps += over_rows(solution.zero_point.astype(np.float64), rows, block)
    low = max(float(steps.min(initial=grid.lo)), grid.lo - MARGIN)
    high = min(float(steps.max(initial=grid.hi)), grid.hi + MARGIN)
    outside = (steps < grid.lo - 0.5) | (steps > grid.hi + 0.5)
    codes = np.bincount(solution.codes.ravel().astype(np.int64) - grid.lo, minlength=grid.hi - grid.lo + 1)
    scales = np.log10(solution.scale.astype(np.float64).ravel())
    return Spread(
        layer=layer,
        weights=histogram(np.clip(steps, low, high), low, high, WEIGHT_BINS),
        lowest_code=grid.lo,
        code_counts=tuple(map(int, codes)),
        beyond=float(outside.mean()),
        scales=histogram(scales, float(scales.min()), float(scales.max()), SCALE_BINS),
        scale_count=int(scales.size),
    )


def histogram(values: np.ndarray, low: float, high: float, bins: int) -> Histogram:
    """Counts of `values`, all of them from `low` to `high`; one bin where these are the same."""
    if not high > low:
        return Histogram(low, high, (int(values.size),))
    counts, _ = np.histogram(values, bins, (low, high))
    return Histogram(low, high, tuple(map(int, counts)))
