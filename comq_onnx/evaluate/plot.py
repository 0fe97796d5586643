"""A line plot of values along a model's depth, as SVG: no script, and nothing to load."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 960, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 28, 36
"""Margins in pixels, for the labels"""
TICKS = 5
"""Gridlines wanted, about"""
LEGEND_STEP = 210
"""Pixels from one name in the legend to the next"""


@dataclass(frozen=True)
class Series:
    """One line of the plot."""

    name: str
    colour: str
    values: tuple[float | None, ...]
    """By position along x; nothing is drawn where there is none or where it is not finite"""


@dataclass(frozen=True)
class _Axes:
    count: int
    """Positions along x"""
    low: float
    high: float

    def x(self, position: int) -> float:
        """Pixels of position 0, 1, ...; a single one lies in the middle."""
        share = position / (self.count - 1) if self.count > 1 else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels of a value; larger ones lie higher."""
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def line_plot(series: Sequence[Series], along: str, unit: str) -> str:
    """An ``<svg>`` element with a line for each series over positions 1, 2, ...; empty without finite values.

    `along` and `unit` are what the axes say. Each point has a ``title`` with its series, position and value.
    """
    drawn = [value for one in series for value in one.values if value is not None and math.isfinite(value)]
    if not drawn:
        return ""
    ticks = _ticks(min(drawn), max(drawn))
    axes = _Axes(max(len(one.values) for one in series), ticks[0], ticks[-1])
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">']
    parts += [_grid(axes, tick) for tick in ticks]
    parts += _labels(axes, along, unit)
    for number, one in enumerate(series):
        parts += [_legend(number, one), *_line(axes, one, along, unit)]
    return "\n".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Round values, evenly spaced, that reach from `low` or below to `high` or above; two at least."""
    rough = max(high - low, 1e-6 * max(abs(high), 1.0)) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def _grid(axes: _Axes, tick: float) -> str:
    y = axes.y(tick)
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.2f}" y2="{y:.2f}"/>'
    return f'{line}<text class="tick" x="{LEFT - 6}" y="{y + 4:.2f}" text-anchor="end">{tick:g}</text>'


def _labels(axes: _Axes, along: str, unit: str) -> list[str]:
    """First and last position, and what the axes are."""
    y, last = HEIGHT - BOTTOM + 16, axes.count - 1
    ends = dict.fromkeys((0, last))
    texts = [(axes.x(at), y, "middle" if at < last else "end", str(at + 1)) for at in ends]
    texts += [((LEFT + WIDTH - RIGHT) / 2, y + 12, "middle", along), (LEFT - 6, 14, "end", unit)]
    return [
        f'<text x="{x:.2f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        for x, y, anchor, text in texts
    ]


def _legend(number: int, series: Series) -> str:
    x = LEFT + 12 + number * LEGEND_STEP
    line = f'<line x1="{x}" x2="{x + 20}" y1="10" y2="10" stroke="{series.colour}" stroke-width="2"/>'
    return f'{line}<text x="{x + 26}" y="14">{escape(series.name)}</text>'


def _line(axes: _Axes, series: Series, along: str, unit: str) -> Iterator[str]:
    """A polyline for each unbroken stretch, then a dot for each point."""
    points = [
        (at, axes.x(at), axes.y(value)) if value is not None and math.isfinite(value) else None
        for at, value in enumerate(series.values)
    ]
    yield f'<g stroke="{series.colour}" fill="{series.colour}" data-series="{escape(series.name)}">'
    stretch: list[str] = []
    for point in (*points, None):
        if point is not None:
            stretch.append(f"{point[1]:.2f},{point[2]:.2f}")
            continue
        if len(stretch) > 1:
            yield f'<polyline fill="none" points="{" ".join(stretch)}"/>'
        stretch = []
    for at, x, y in filter(None, points):
        told = escape(f"{series.name}, {along} {at + 1}: {series.values[at]:.1f} {unit}")
        yield f'<circle cx="{x:.2f}" cy="{y:.2f}" r="2.5"><title>{told}</title></circle>'
    yield "</g>"
