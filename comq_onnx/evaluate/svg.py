"""Charts as SVG inside a page, drawn by matplotlib: colours are the page's, so they follow light and dark.

An element has no script and loads nothing; the same chart is the same bytes on any day. matplotlib comes with
the extra ``report``, and is imported when a chart is drawn.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from io import StringIO
from typing import Any
from xml.etree import ElementTree

COLOURS = {
    "ink": "#111111",
    "faint": "#cccccc",
    "before": "#d55e00",
    "after": "#0072b2",
    "input": "#009e73",
    "other": "#cc79a7",
}
"""What a chart is drawn in, by the page's name of the colour: ``var(--ink)`` and so on"""
MISSING = 'matplotlib is not installed, so charts are left out: pip install "comq-onnx[report]"'
STYLE = {
    "svg.fonttype": "none",
    "font.size": 8,
    "text.color": COLOURS["ink"],
    "text.parse_math": False,
    "axes.edgecolor": COLOURS["faint"],
    "axes.facecolor": "none",
    "axes.labelcolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["faint"],
    "grid.linewidth": 0.4,
    "xtick.color": COLOURS["faint"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.color": COLOURS["faint"],
    "ytick.labelcolor": COLOURS["ink"],
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
Titles = Mapping[str, Sequence[str]]
"""By the gid of an artist: what each of its marks says when it is pointed at, in the order drawn"""


def charts_missing() -> str:
    """Why no chart can be drawn here, as a sentence; empty where one can."""
    return "" if find_spec("matplotlib") else MISSING


def svg(name: str, size: tuple[float, float], draw: Callable[[Any], Titles], told: str) -> str:
    """An ``<svg>`` element that `draw` fills.

    Parameters
    ----------
    name
        Of the chart; it begins all ids in it, so that charts of one page do not mix.
    size
        Width and height in inches; text is 8 points high.
    draw
        Gets an empty ``matplotlib.figure.Figure``, and returns the titles of its marks.
    told
        What the chart shows, for those who do not see it.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    text = StringIO()
    # The user's own matplotlibrc is put aside: a report looks the same everywhere.
    with style.context(["default", {**STYLE, "svg.hashsalt": name}]):
        figure = Figure(figsize=size, layout="constrained")
        titles = draw(figure)
        figure.savefig(text, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    return _inline(root, name, titles, told)


def _inline(root: ElementTree.Element, name: str, titles: Titles, told: str) -> str:
    """The element as HTML has it: no namespaces, no size of its own, ids and colours of the page."""
    # What the file was made with, and a style that would be the whole page's.
    for child in list(root):
        if child.tag.endswith("metadata") or any(inner.tag.endswith("style") for inner in child):
            root.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            element.set(key.rpartition("}")[2], _attribute(key, value, name))
    for gid, texts in titles.items():
        _entitle(root, f"{name}-{gid}", texts)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", told)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return value.replace("#", f"#{name}-")
    value = value.replace("url(#", f"url(#{name}-")
    for colour, drawn in COLOURS.items():
        value = value.replace(drawn, f"var(--{colour})")
    # Of the font only the size is the chart's.
    return re.sub(r" ?font-family: [^;]*;?", "", re.sub(r"font: ([\d.]+)px[^;]*", r"font-size: \1px", value))


def _entitle(root: ElementTree.Element, gid: str, texts: Sequence[str]) -> None:
    """A title in each mark of the group `gid`: its ``use`` elements, or else its paths."""
    group = next(element for element in root.iter("g") if element.get("id") == gid)
    marks = list(group.iter("use")) or [path for path in group.iter("path") if "id" not in path.attrib]
    for mark, text in zip(marks, texts, strict=True):
        title = ElementTree.SubElement(mark, "title")
        title.text = text
