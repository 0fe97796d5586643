"""The 8-bit grid of one activation, chosen from a histogram of its values."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from comq_onnx.records import ActivationKind, ValueGrid
from comq_onnx.stats.entropy import entropy_ends
from comq_onnx.stats.histogram import Cells, Histogram

Ends = tuple[float, float]
"""Lower and upper end of a range that holds zero"""

STEPS = 255
"""Between the lowest and the highest code"""
PERCENT = 99.99
"""Of the values are not above the upper end, by the method percentile; as many are not below the lower."""
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)
"""Smaller scales are subnormal numbers, which runtimes may take for zero."""


@dataclass(frozen=True)
class Pattern:
    """How far a search goes."""

    shares: tuple[float, ...]
    """Parts of the widest range that are tried, of both ends together and then of each"""
    rounds: int
    """How often that is done end by end"""
    factors: tuple[float, ...]
    """By which the ends are moved from the best range found"""
    moves: int
    """At most, with each factor"""


FINE = Pattern(tuple(2.0 ** -np.arange(0, 7, 0.25)), 2, (1.1, 1.04, 1.015, 1.005), 12)


def choose_grid(
    histogram: Histogram,
    kind: ActivationKind,
    method: str,
    low: float = float("-inf"),
    high: float = float("inf"),
) -> ValueGrid:
    """The grid of the values of a histogram.

    Parameters
    ----------
    histogram
        Of all values; where it has none, or only zeros, any grid would do and the scale is 1 or less.
    kind
        Which codes there are.
    method
        ``minmax``: from the lowest value to the highest. ``percentile``: 99.99 % of the values (of their
        magnitudes, for a symmetric kind) are inside each end. ``entropy``: the least Kullback-Leibler
        divergence, see `entropy_ends`. ``mse``, and whatever else `Recipe.calibration_method` may say: the
        least expected squared error of rounding and clipping.
    low, high
        What an absorbed Relu or Clip keeps values within. The range lies inside, so that a runtime can drop
        the node; a limit that would exclude zero counts as zero, and a symmetric kind has no limit at zero.

    The range always includes zero, and zero is a code.
    """
    whole = whole_range(histogram)
    if method == "minmax" or whole == (0.0, 0.0):
        return grid_between(whole, kind, low, high)
    if method == "percentile":
        return grid_between(_percentiles(histogram, kind), kind, low, high)
    if method == "entropy":
        return grid_between(entropy_ends(histogram, kind), kind, low, high)
    cells = histogram.cells()
    return search(
        lambda grid: squared_error(cells, grid),
        [whole],
        lambda ends: grid_between(ends, kind, low, high),
        FINE,
    )


def code_range(kind: ActivationKind) -> tuple[int, int]:
    """The lowest and the highest code."""
    return (-128, 127) if kind.signed else (0, 255)


def grid_between(
    ends: Ends, kind: ActivationKind, low: float = float("-inf"), high: float = float("inf")
) -> ValueGrid:
    """The grid whose range is, but for the rounding of the zero point, the one between the ends.

    The limits are those of `choose_grid`: ``scale * (code - zero_point)`` of the outermost codes, computed in
    float32, does not exceed them. The largest magnitude of a symmetric signed grid has the code 127.
    """
    bottom, top = code_range(kind)
    low, high = max(min(low, 0.0), -LARGEST), min(max(high, 0.0), LARGEST)
    lower, upper = max(min(ends[0], 0.0), low), min(max(ends[1], 0.0), high)
    if kind.symmetric:
        zero, scale = 0, max(upper, -lower if kind.signed else 0.0) / top
    else:
        scale = (upper - lower) / STEPS
        below = round(-lower / scale) if scale > 0 else STEPS * (high == 0)
        zero = bottom + min(max(below, 0), STEPS)
    return ValueGrid(_within(scale or 1.0, zero - bottom, top - zero, (low, high)), zero, kind)


def squared_error(cells: Cells, grid: ValueGrid) -> float:
    """The squared error of rounding to the grid and clipping, summed over the values that are not zero.

    The integral over each cell is exact: in steps, the error at u is ``(u - k)^2`` with k the code nearest,
    of which ``k / 12 + (u - k)^3 / 3`` is an antiderivative.
    """
    bottom, top = (code - grid.zero_point for code in code_range(grid.kind))
    at = cells.edges / grid.scale
    near = np.clip(np.rint(at), bottom, top)
    off = at - near
    integral = near / 12 + off * off * off / 3
    points = cells.points / grid.scale
    lost = np.square(points - np.clip(np.rint(points), bottom, top))
    # Not as dot products, whose bits depend on the number of threads.
    spread, alone = (cells.density * np.diff(integral)).sum(), (cells.masses * lost).sum()
    return float(grid.scale**3 * spread + grid.scale**2 * alone)


def search(
    error: Callable[[ValueGrid], float],
    starts: Sequence[Ends],
    fitted: Callable[[Ends], ValueGrid],
    pattern: Pattern,
) -> ValueGrid:
    """The grid of the least error among those tried; never worse than that of any of `starts`.

    Shares are taken of the first start; then the ends of the best range are moved one by one, as long as that
    helps. `fitted` makes the grid of a range.
    """
    seen: dict[ValueGrid, float] = {}

    def measured(ends: Ends) -> tuple[float, Ends]:
        grid = fitted(ends)
        if grid not in seen:
            seen[grid] = error(grid)
        return seen[grid], ends

    def least(tried: Iterable[Ends]) -> tuple[float, Ends]:
        return min(map(measured, tried), key=lambda pair: pair[0])

    lower, upper = starts[0]
    best, ends = least([*starts, *((lower * share, upper * share) for share in pattern.shares)])
    for _ in range(pattern.rounds):
        best, ends = least([ends, *((ends[0], upper * share) for share in pattern.shares)])
        best, ends = least([ends, *((lower * share, ends[1]) for share in pattern.shares)])
    for factor in pattern.factors:
        for _ in range(pattern.moves):
            a, b = ends
            moved, near = least([(a * factor, b), (a / factor, b), (a, b * factor), (a, b / factor)])
            if moved >= best:
                break
            best, ends = moved, near
    return fitted(ends)


def whole_range(histogram: Histogram) -> Ends:
    """From the lowest value to the highest, zero included."""
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def _within(scale: float, below: int, above: int, limits: Ends) -> float:
    """The float32 next to `scale`, or the largest below it whose range lies within the limits.

    The range is `below` steps long on one side of zero, and `above` on the other.
    """
    low, high = limits
    # A limit at zero on a side that has codes is one that this kind cannot keep.
    held_low, held_high = below > 0 and low < 0, above > 0 and high > 0
    if held_low:
        scale = min(scale, -low / below)
    if held_high:
        scale = min(scale, high / above)
    step = np.float32(max(scale, SMALLEST))

    def outside() -> bool:
        # Products that overflow are above every limit.
        with np.errstate(over="ignore"):
            ends = float(step * np.float32(-below)), float(step * np.float32(above))
        return (held_low and ends[0] < low) or (held_high and ends[1] > high)

    while step > SMALLEST and outside():
        step = np.nextafter(step, np.float32(0))
    return float(step)


def _percentiles(histogram: Histogram, kind: ActivationKind) -> Ends:
    """The ends by the method percentile; the whole range where no other value than zero would be inside."""
    share = PERCENT / 100
    if kind.symmetric and kind.signed:
        end = _magnitude_quantile(histogram, share)
        ends = -end, end
    else:
        ends = _quantile(histogram, 1 - share), _quantile(histogram, share)
    return ends if ends[0] < 0 or ends[1] > 0 else whole_range(histogram)


def _quantile(histogram: Histogram, share: float) -> float:
    """The value that `share` of all values are not above, evenly spread within each bin."""
    edges, below = _cumulative(histogram)
    return float(np.interp(share * histogram.count, below, edges))


def _magnitude_quantile(histogram: Histogram, share: float) -> float:
    """The same of the magnitudes."""
    edges, below = _cumulative(histogram)
    at = np.unique(np.abs(edges))
    beyond = np.interp(-at, edges, below, left=0.0)
    inside = np.interp(at, edges, below, right=histogram.count) - beyond
    if not at[0]:
        inside[0] = histogram.zeros
    return float(np.interp(share * histogram.count, inside, at))


def _cumulative(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Edges, and how many values are below each; zero is there twice, before and behind the zeros."""
    edges = np.ldexp(
        np.arange(histogram.first, histogram.first + len(histogram.counts) + 1.0), histogram.exponent
    )
    edges = np.clip(edges, histogram.low, histogram.high)
    below = np.concatenate([[0], np.cumsum(histogram.counts)]).astype(np.float64)
    if histogram.zeros:
        at = int(np.searchsorted(edges, 0.0))
        edges, below = np.insert(edges, at, 0.0), np.insert(below, at, below[at])
        below[at + 1 :] += histogram.zeros
    return edges, below
