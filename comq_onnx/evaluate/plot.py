"""A line plot of values along a model's depth, as SVG: no script, and nothing to load."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from comq_onnx.evaluate.axes import BELOW, Axis, across, legend, level, names, svg, ticks, upward, words


@dataclass(frozen=True)
class Series:
    """One line of the plot."""

    name: str
    colour: str
    values: tuple[float | None, ...]
    """By position along x; nothing is drawn where there is none or where it is not finite"""


def line_plot(series: Sequence[Series], along: str, unit: str) -> str:
    """An ``<svg>`` element with a line for each series over positions 1, 2, ...; empty without finite values.

    `along` and `unit` are what the axes say. Each point has a ``title`` with its series, position and value.
    """
    drawn = [value for one in series for value in one.values if value is not None and math.isfinite(value)]
    if not drawn:
        return ""
    levels, last = ticks(min(drawn), max(drawn)), max(len(one.values) for one in series) - 1
    xs, ys = across(0, last), upward(levels[0], levels[-1])
    parts = [level(ys.at(tick), f"{tick:g}") for tick in levels]
    # The first and the last position are enough; the table numbers the rest.
    parts += [
        words(xs.at(at), BELOW, "middle" if at < last else "end", str(at + 1))
        for at in dict.fromkeys((0, last))
    ]
    parts += names(along, unit)
    for number, one in enumerate(series):
        parts += [legend(number, one.name, one.colour), *_line(xs, ys, one, along, unit)]
    return svg(parts)


def _line(xs: Axis, ys: Axis, series: Series, along: str, unit: str) -> Iterator[str]:
    """A polyline for each unbroken stretch, then a dot for each point."""
    points = [
        (at, xs.at(at), ys.at(value)) if value is not None and math.isfinite(value) else None
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
