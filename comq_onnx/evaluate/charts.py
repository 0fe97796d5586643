"""The charts of the page: functions from records to an ``<svg>`` element, empty where nothing is finite.

Layers are numbered from 1 in graph order, as in the page's table; what is not finite is not drawn.
"""

import math
from collections.abc import Sequence
from typing import Any

from comq_onnx.allocate.allocation import Point, Price
from comq_onnx.evaluate.spread import Histogram, Spread
from comq_onnx.evaluate.svg import COLOURS, Titles, svg
from comq_onnx.records import LayerReport

WIDE, HALF = 8.0, 4.4
"""Widths in inches, of a chart by itself and of one beside another"""
UNIFORM = "uniform"
"""First word of the kinds of points that are not joined by a line"""
NOTHING = 1e-18
"""Distortions up to this are rounding, and are drawn as 0"""
MARK, CROWD = 3.5, 80
"""Points that a mark is wide, up to so many layers; more layers have smaller ones"""
FEW_CODES = 16
"""Codes that are marked one by one"""
KINDS = (("s", "before"), ("o", "after"), ("^", "input"), ("D", "other"))
"""Mark and colour by number, so that colour alone tells nothing"""


def layers_chart(lines: Sequence[LayerReport]) -> str:
    """SQNR by rounding and as solved, and bytes before and after, of each quantized layer."""
    gains = [(line.sqnr_before, line.sqnr_after) for line in lines]
    if not any(map(_finite, (value for pair in gains for value in pair))):
        return ""
    sizes = [(line.bytes_before, line.bytes_after + line.bias_bytes) for line in lines]

    def draw(figure: Any) -> Titles:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        names = ("by round-to-nearest", "as solved")
        titles = _pairs(above, "sqnr", gains, names, [f"{line.name}: {{:.1f}} dB {{}}" for line in lines])
        above.set_ylabel("SQNR, dB")
        words = [f"{line.name}: {{:,}} bytes {{}}" for line in lines]
        titles |= _pairs(below, "bytes", sizes, ("before", "after"), words)
        _logarithmic(below.yaxis, [size for pair in sizes for size in pair if size > 0], _bytes)
        below.set_ylabel("bytes")
        _numbered(below, len(lines))
        return titles

    return svg("sqnr", (WIDE, 4.2), draw, "SQNR and bytes of each layer, before and after")


def depth_chart(lines: Sequence[LayerReport]) -> str:
    """Relative squared errors along the depth of the model: by rounding, as solved, and of the input."""
    series = {
        "rounded": ("by round-to-nearest", [_relative(line.sqnr_before) for line in lines]),
        "solved": ("as solved", [_relative(line.sqnr_after) for line in lines]),
        "drift": ("of its input", [line.drift for line in lines]),
    }
    drawn = {gid: (label, list(map(_positive, values))) for gid, (label, values) in series.items()}
    drawn = {gid: one for gid, one in drawn.items() if any(map(_finite, one[1]))}
    if not drawn:
        return ""

    def draw(figure: Any) -> Titles:
        axes, titles, places = figure.subplots(), {}, range(1, len(lines) + 1)
        for number, (gid, (label, values)) in enumerate(drawn.items()):
            mark, colour = KINDS[number if len(drawn) == 3 or gid != "drift" else 2]
            look = {"ls": "-", "ms": _mark(len(lines)), "color": COLOURS[colour], "mew": 0}
            axes.plot(places, values, mark, label=label, gid=gid, **look)
            pairs = [(line, value) for line, value in zip(lines, values, strict=True) if _finite(value)]
            titles[gid] = [f"{line.name}: {value:.3g} {label}" for line, value in pairs]
        _logarithmic(axes.yaxis, [v for _, values in drawn.values() for v in values if _finite(v)], _number)
        axes.set_ylabel("squared error / signal")
        _numbered(axes, len(lines))
        _legend(axes)
        return titles

    return svg("depth", (WIDE, 3.0), draw, "Relative error of layers along the depth of the model")


def spread_chart(number: int, spread: Spread) -> str:
    """Weights in steps beside codes, and scales, of one layer; `number` tells it from others of the page."""

    def draw(figure: Any) -> Titles:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _filled(left, spread.weights, "weights")
        total = sum(spread.code_counts)
        codes = [spread.lowest_code + at for at in range(len(spread.code_counts))]
        shares = [count / total for count in spread.code_counts]
        few = len(codes) <= FEW_CODES
        look = {"marker": "o", "ls": "none"} if few else {"lw": 0.8}
        left.plot(codes, shares, color=COLOURS["before"], label="codes", gid="codes", mew=0, **look)
        if few:
            left.vlines(codes, 0, shares, color=COLOURS["before"], lw=0.8)
        left.set(xlabel="steps of a weight's own scale", ylabel="share in a step", ylim=(0, None))
        _legend(left)
        _filled(right, spread.scales, "scales")
        right.set(xlabel="scale", ylabel="density", ylim=(0, None), yticks=[])
        right.xaxis.set_major_locator(_nice(3))
        right.xaxis.set_major_formatter(lambda value, _: f"{10**value:.2g}")
        if not few:
            return {}
        told = zip(codes, spread.code_counts, strict=True)
        return {"codes": [f"code {code}: {count:,} weights" for code, count in told]}

    return svg(f"spread{number}", (HALF, 2.1), draw, f"Weights, codes and scales of {spread.layer}")


def prices_chart(prices: Sequence[Price]) -> str:
    """Dual prices in graph order, each from one standard error below to one above."""
    drawn = [(at, price) for at, price in enumerate(prices, 1) if _finite(_positive(price.price))]
    if not drawn:
        return ""

    def draw(figure: Any) -> Titles:
        axes = figure.subplots()
        width = [math.exp(min(p.uncertainty, 10.0)) if _finite(p.uncertainty) else 1.0 for _, p in drawn]
        places, values = [at for at, _ in drawn], [price.price for _, price in drawn]
        ends = [(value / by, value * by) for value, by in zip(values, width, strict=True)]
        axes.vlines(
            places, [low for low, _ in ends], [high for _, high in ends], color=COLOURS["after"], lw=0.8
        )
        axes.plot(places, values, "o", color=COLOURS["after"], gid="price", ms=_mark(len(prices)), mew=0)
        _logarithmic(axes.yaxis, [value for pair in ends for value in pair], _number)
        axes.set_ylabel("price")
        _numbered(axes, len(prices), "layer that had a choice")
        return {
            "price": [f"{price.layer}: {price.price:.3g}, stored as {price.chosen}" for _, price in drawn]
        }

    return svg("prices", (WIDE, 2.4), draw, "Dual price of each layer")


def pareto_chart(points: Sequence[Point], chosen: int, unit: str) -> str:
    """Distortion (`unit`, logarithmic) against megabytes; a dashed line stands at `chosen` bytes.

    A series for each kind, those that begin with ``uniform`` together and labelled with the rest of their
    kind, the others joined by a line. Points of no distortion lie on a line of their own at the foot. Empty
    where no point has a distortion.
    """
    kept = [point for point in points if math.isfinite(point.distortion)]
    above = [point.distortion for point in kept if point.distortion > NOTHING]
    if not above:
        return ""
    floor = min(above) / 5 if len(above) < len(kept) else None

    def draw(figure: Any) -> Titles:
        axes, titles = figure.subplots(), {}
        for number, (family, members) in enumerate(families(kept).items()):
            places = [(p.bytes / 1e6, p.distortion if p.distortion > NOTHING else floor) for p in members]
            mark, colour = KINDS[number % len(KINDS)]
            look = {"ls": "none"} if family == UNIFORM else {"ls": "-"}
            # One network by itself would be lost among the marks of a line.
            look |= {"ms": 8, "zorder": 3} if len(members) == 1 else {}
            xs, ys = zip(*places, strict=True)
            gid = f"kind{number}"
            axes.plot(xs, ys, mark, color=COLOURS[colour], label=family, gid=gid, mew=0, **look)
            titles[gid] = [_point(point, unit) for point in members]
            for point, place in zip(members, places, strict=True):
                near = {"textcoords": "offset points", "xytext": (5, 4), "clip_on": False}
                axes.annotate(_width(point), place, **near)
        axes.axvline(
            chosen / 1e6, color=COLOURS["ink"], lw=0.8, ls=(0, (4, 4)), label="size of the file", gid="size"
        )
        axes.margins(x=0.08)
        axes.set(xlabel="MB", ylabel=unit)
        _logarithmic(axes.yaxis, above, _number, floor)
        _legend(axes)
        return titles

    return svg("pareto", (WIDE, 3.2), draw, f"{unit} of whole networks against the size of the file")


def families(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Points by series, smallest file first, in the order in which the series come up."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(UNIFORM if _width(point) else point.kind, []).append(point)
    return {family: sorted(members, key=lambda point: point.bytes) for family, members in found.items()}


def _width(point: Point) -> str:
    """``int4`` of ``uniform int4``; empty for other kinds."""
    first, _, rest = point.kind.partition(" ")
    return rest if first == UNIFORM else ""


def _point(point: Point, unit: str) -> str:
    value = f"{point.distortion:.4g}" if point.distortion > NOTHING else "0"
    return f"{point.kind}, {point.bytes:,} bytes: {value} {unit}"


def _pairs(
    axes: Any,
    gid: str,
    pairs: Sequence[tuple[float | None, float | None]],
    names: tuple[str, str],
    words: Sequence[str],
) -> dict[str, list[str]]:
    """Two marks above each other for each layer, joined; the titles of the marks."""
    places, titles = range(1, len(pairs) + 1), {}
    ends = [(at, *pair) for at, pair in enumerate(pairs, 1) if all(map(_finite, pair))]
    if ends:
        axes.vlines(*zip(*ends, strict=True), color=COLOURS["faint"], lw=_mark(len(pairs)) / 3, zorder=1)
    for side, name in enumerate(names):
        mark, colour = KINDS[side]
        values = [pair[side] if _finite(pair[side]) else math.nan for pair in pairs]
        look = {"color": COLOURS[colour], "ms": _mark(len(pairs)), "mew": 0}
        axes.plot(places, values, mark, label=name, gid=f"{gid}{side}", **look)
        told = zip(words, values, strict=True)
        titles[f"{gid}{side}"] = [text.format(value, name) for text, value in told if _finite(value)]
    _legend(axes)
    return titles


def _filled(axes: Any, histogram: Histogram, label: str) -> None:
    """A histogram as a density, so that all of it together is 1."""
    counts, low, high = histogram.counts, histogram.low, histogram.high
    if not high > low:
        low, high = low - 0.05, high + 0.05
    width = (high - low) / len(counts)
    edges = [low + at * width for at in range(len(counts) + 1)]
    share = [count / (sum(counts) * width) for count in counts]
    axes.stairs(share, edges, fill=True, color=COLOURS["after"], alpha=0.6, lw=0, label=label, gid=label)


def _logarithmic(axis: Any, values: Sequence[float], text: Any, floor: float | None = None) -> None:
    """A logarithmic axis with a handful of labels; what is 0 lies at `floor`."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.axes.set_yscale("log")
    low, high = min(values), max(values)
    near = math.log10(high / low) < 2
    ticks = LogLocator(subs=(1.0, 2.0, 5.0) if near else (1.0,), numticks=8).tick_values(low, high)
    inside = [tick for tick in ticks if low / 1.5 <= tick <= high * 1.5] or [low, high]
    axis.set_ticks([*([floor] if floor else []), *inside])
    axis.set_major_formatter(lambda value, _: "0" if value == floor else text(value))
    axis.set_minor_locator(NullLocator())
    axis.axes.set_ylim((floor or low) / 1.6, high * 2)


def _numbered(axes: Any, count: int, what: str = "layer") -> None:
    axes.set_xlabel(what)
    room = max(0.6, 0.01 * count)
    axes.set_xlim(1 - room, count + room)
    axes.xaxis.set_major_locator(_nice(12, integer=True))


def _mark(count: int) -> float:
    """How wide a mark is, in points, so that `count` of them can be told apart."""
    return MARK * min(1.0, math.sqrt(CROWD / max(count, 1)))


def _nice(most: int, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, integer=integer, min_n_ticks=1)


def _legend(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2, handletextpad=0.4)


def _relative(decibel: float | None) -> float | None:
    """The squared error over the signal that a SQNR stands for."""
    return None if decibel is None else 10 ** (-decibel / 10)


def _positive(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) and value > 0 else math.nan


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _bytes(value: float) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"


def _number(value: float) -> str:
    return f"{value:g}"
