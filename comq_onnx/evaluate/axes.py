"""Axes, gridlines and legend of the page's plots, as SVG: no script, and nothing to load."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 960, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 28, 36
"""Margins in pixels, for the labels"""
TICKS = 5
"""Gridlines wanted, about"""
LEGEND_STEP = 210
"""Pixels from one name in the legend to the next"""
BELOW = HEIGHT - BOTTOM + 16
"""Pixels where the labels of positions along x stand"""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` along the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Pixels of a value; the middle where the axis has only one."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def across(low: float, high: float) -> Axis:
    """The axis along x."""
    return Axis(low, high, LEFT, WIDTH - RIGHT)


def upward(low: float, high: float) -> Axis:
    """The axis along y; larger values lie higher."""
    return Axis(low, high, HEIGHT - BOTTOM, TOP)


def ticks(low: float, high: float) -> list[float]:
    """Round values, evenly spaced, that reach from `low` or below to `high` or above; two at least."""
    rough = max(high - low, 1e-6 * max(abs(high), 1.0)) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def svg(parts: Sequence[str]) -> str:
    """The element that holds the parts of a plot."""
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">'
    return "\n".join([head, *parts, "</svg>"])


def level(y: float, label: str) -> str:
    """A gridline at the pixels `y`, and what it stands for."""
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.2f}" y2="{y:.2f}"/>'
    return f'{line}<text class="tick" x="{LEFT - 6}" y="{y + 4:.2f}" text-anchor="end">{escape(label)}</text>'


def words(x: float, y: float, anchor: str, text: str) -> str:
    """A label; `anchor` is the part of it that stands at `x`: ``start``, ``middle`` or ``end``."""
    return f'<text x="{x:.2f}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def names(along: str, unit: str) -> list[str]:
    """What the axes are, x first."""
    return [
        words((LEFT + WIDTH - RIGHT) / 2, BELOW + 12, "middle", along),
        words(LEFT - 6, 14, "end", unit),
    ]


def legend(number: int, name: str, colour: str) -> str:
    """The entry of series `number` (from 0) above the plot."""
    x = LEFT + 12 + number * LEGEND_STEP
    line = f'<line x1="{x}" x2="{x + 20}" y1="10" y2="10" stroke="{colour}" stroke-width="2"/>'
    return f'{line}<text x="{x + 26}" y="14">{escape(name)}</text>'
