"""Size against fidelity of whole networks, as SVG: uniform widths beside what the allocator finds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from comq_onnx.allocate.allocation import Point
from comq_onnx.evaluate.axes import (
    BELOW,
    BOTTOM,
    HEIGHT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    across,
    legend,
    level,
    names,
    svg,
    ticks,
    upward,
    words,
)

UNIFORM = "uniform"
"""First word of the kinds that are points of their own, not a line"""
COLOURS = ("#d9822b", "#2b7bd9", "#3a9d5d", "#a05bc4")
MB = 1e6
NOTHING = 1e-18
"""Distortions up to this are rounding, and are drawn as 0"""
CLOSE = 2
"""Up to so many decades, an axis has lines at 2 and 5 times a power of ten too"""
MOST = 6
"""Decades beyond which some go without a line"""
ROOM = 120
"""Pixels at the right edge where a label goes to the left of its point"""


@dataclass(frozen=True)
class _Axes:
    x: Axis
    y: Axis
    """Of logarithms to base 10"""
    floor: float
    """Pixels where what is 0 lies, which has no logarithm"""

    def place(self, point: Point) -> tuple[float, float]:
        down = self.y.at(math.log10(point.distortion)) if point.distortion > NOTHING else self.floor
        return self.x.at(point.bytes / MB), down


def pareto_plot(points: Sequence[Point], chosen: int, unit: str) -> str:
    """An ``<svg>`` element of distortion (`unit`, logarithmic) against megabytes; empty without points.

    A series for each kind, those that begin with ``uniform`` together and labelled with the rest of their
    kind, the others joined by a line. A dashed line stands at `chosen` bytes, and a ring about the points of
    that size that are not uniform. Points of no distortion lie on a line of their own at the foot;
    those that are not finite are not drawn, nor is anything where no point has a distortion.
    """
    drawn = [point for point in points if math.isfinite(point.distortion)]
    above = [point.distortion for point in drawn if point.distortion > NOTHING]
    if not above:
        return ""
    sizes = [point.bytes / MB for point in drawn] + [chosen / MB]
    marks, levels = ticks(min(sizes), max(sizes)), log_ticks(min(above), max(above))
    zero = len(above) < len(drawn)
    low, high = math.log10(levels[0]), math.log10(levels[-1])
    # A tenth of the height below the lowest line, as there is no place for 0 on a logarithmic axis.
    ys = upward(low - (high - low) / 9 if zero else low, high)
    axes = _Axes(across(marks[0], marks[-1]), ys, ys.start)
    parts = [level(ys.at(math.log10(tick)), f"{tick:g}") for tick in levels]
    parts += [level(axes.floor, "0")] if zero else []
    parts += [
        words(axes.x.at(mark), BELOW, "end" if mark == marks[-1] else "middle", f"{mark:g}") for mark in marks
    ]
    parts += [*names("MB", ""), words(WIDTH - RIGHT, 14, "end", unit), _chosen_line(axes, chosen)]
    for number, (family, members) in enumerate(families(drawn).items()):
        colour = COLOURS[number % len(COLOURS)]
        parts += [legend(number, family, colour), *_series(axes, family, members, colour, unit)]
        parts += _rings(axes, members, chosen)
    return svg(parts)


def families(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Points by series, smallest file first, in the order in which the series come up."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(UNIFORM if _width(point) else point.kind, []).append(point)
    return {family: sorted(members, key=lambda point: point.bytes) for family, members in found.items()}


def log_ticks(low: float, high: float) -> list[float]:
    """Round values from `low` or below to `high` or above, both positive; two at least, about `MOST`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    if last - first > CLOSE:
        step = -(-(last - first) // MOST)
        return [10.0**power for power in range(first, last + step, step)]
    values = [times * 10.0**power for power in range(first, last + 1) for times in (1, 2, 5)]
    start = max(at for at, value in enumerate(values) if value <= low or at == 0)
    end = next(at for at, value in enumerate(values) if value >= high and at > start)
    return values[start : end + 1]


def _width(point: Point) -> str:
    """``int4`` of ``uniform int4``; empty for other kinds."""
    first, _, rest = point.kind.partition(" ")
    return rest if first == UNIFORM else ""


def _series(axes: _Axes, family: str, members: Sequence[Point], colour: str, unit: str) -> Iterator[str]:
    """A dot for each point, joined where the family is one way to choose, and labelled where it is not."""
    yield f'<g stroke="{colour}" fill="{colour}" data-series="{escape(family)}">'
    places = [axes.place(point) for point in members]
    if family != UNIFORM and len(places) > 1:
        joined = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
        yield f'<polyline fill="none" points="{joined}"/>'
    for point, (x, y) in zip(members, places, strict=True):
        told = escape(
            f"{point.kind}, {point.bytes / MB:.6g} MB ({point.bytes:,} bytes): {_value(point)} {unit}"
        )
        yield f'<circle cx="{x:.2f}" cy="{y:.2f}" r="3"><title>{told}</title></circle>'
        if width := _width(point):
            side, anchor = (-7, "end") if x > WIDTH - ROOM else (7, "start")
            yield words(x + side, round(y - 5, 2), anchor, width)
    yield "</g>"


def _value(point: Point) -> str:
    return f"{point.distortion:.4g}" if point.distortion > NOTHING else "0"


def _chosen_line(axes: _Axes, chosen: int) -> str:
    x = axes.x.at(chosen / MB)
    told = escape(f"chosen: {chosen / MB:.6g} MB ({chosen:,} bytes)")
    return (
        f'<line class="chosen" x1="{x:.2f}" x2="{x:.2f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
        f'stroke="currentColor" stroke-width="1" stroke-dasharray="4 4"><title>{told}</title></line>'
    )


def _rings(axes: _Axes, members: Sequence[Point], chosen: int) -> Iterator[str]:
    """About the points that are the file to be written, as far as its size tells."""
    for point in members:
        if point.bytes == chosen and not _width(point):
            x, y = axes.place(point)
            yield (
                f'<circle class="chosen" cx="{x:.2f}" cy="{y:.2f}" r="7" fill="none" stroke="currentColor" '
                f'stroke-width="1.5"><title>{escape(f"chosen ({point.kind})")}</title></circle>'
            )
