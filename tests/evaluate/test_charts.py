"""Charts: XML whose marks lie where the labels of their axes say, in the colours of the page."""

import math
import re
from xml.etree import ElementTree

import pytest
from evaluate.allocating import POINTS, price
from evaluate.reporting import line

from comq_onnx.allocate.allocation import Point
from comq_onnx.evaluate.charts import depth_chart, layers_chart, pareto_chart, prices_chart, spread_chart
from comq_onnx.evaluate.spread import Histogram, Spread
from comq_onnx.evaluate.svg import COLOURS

EVIL = 'by <b>"$loss$"</b> & size'
BEFORE, AFTER = [20.0, 11.5, 17.0, 3.25], [26.0, 14.5, 22.0, 9.0]
DRIFT = [0.0, 1e-3, 2e-2, 1e-2]
LINES = [line(f"l{i}", b, a, d) for i, (b, a, d) in enumerate(zip(BEFORE, AFTER, DRIFT, strict=True))]
FOUR_BITS = Spread(
    "a", Histogram(-9.0, 8.0, (1, 5, 9, 4)), -8, tuple(range(16)), 0.1, Histogram(-3, -1, (2, 1)), 3
)
EIGHT_BITS = Spread("$a", Histogram(-128, 127, (1, 5)), -128, (1,) * 256, 0.0, Histogram(-3, -3, (7,)), 7)


def marks(root: ElementTree.Element, gid: str) -> list[tuple[float, float, str]]:
    """Where the marks of a series lie, and what they say."""
    group = next(element for element in root.iter("g") if element.get("id") == gid)
    return [
        (float(use.attrib["x"]), float(use.attrib["y"]), use.findtext("title") or "")
        for use in group.iter("use")
    ]


def levels(root: ElementTree.Element, axes: str, side: str) -> dict[str, float]:
    """Pixels of the ticks of one axis, by their labels."""
    inside = next(element for element in root.iter("g") if (element.get("id") or "").endswith(axes))
    found = {}
    for tick in inside.iter("g"):
        if re.search(rf"-{side}tick_\d+$", tick.get("id") or ""):
            text = next(tick.iter("text")).text or ""
            found[text.replace("\N{MINUS SIGN}", "-")] = float(next(tick.iter("use")).attrib[side])
    return found


def value_at(places: dict[str, float], pixel: float, logarithmic: bool = False) -> float:
    """Read off an axis as an eye does."""
    pairs = sorted((float(text), place) for text, place in places.items() if text != "0" or not logarithmic)
    (low, first), (high, last) = pairs[0], pairs[-1]
    share = (pixel - first) / (last - first)
    return low * (high / low) ** share if logarithmic else low + share * (high - low)


def test_sqnr_and_bytes_lie_where_their_axes_say() -> None:
    root = ElementTree.fromstring(layers_chart(LINES))
    ys, xs = levels(root, "axes_1", "y"), levels(root, "axes_2", "x")
    for gid, values, name in (("sqnr0", BEFORE, "by round-to-nearest"), ("sqnr1", AFTER, "as solved")):
        found = marks(root, f"sqnr-{gid}")
        assert [value_at(ys, y) for _, y, _ in found] == pytest.approx(values, abs=0.01)
        assert [value_at(xs, x) for x, _, _ in found] == pytest.approx([1, 2, 3, 4], abs=0.01)
        assert [title for *_, title in found] == [f"l{i}: {v:.1f} dB {name}" for i, v in enumerate(values)]
    assert [title for *_, title in marks(root, "sqnr-bytes0")] == [f"l{i}: 64 bytes before" for i in range(4)]
    assert [title for *_, title in marks(root, "sqnr-bytes1")] == [f"l{i}: 8 bytes after" for i in range(4)]


def test_errors_along_depth_are_those_of_the_decibels() -> None:
    root = ElementTree.fromstring(depth_chart(LINES))
    ys = levels(root, "axes_1", "y")
    expected = {
        "rounded": [10 ** (-v / 10) for v in BEFORE],
        "solved": [10 ** (-v / 10) for v in AFTER],
        # The first layer is fed the same by both networks: no logarithm, no mark.
        "drift": DRIFT[1:],
    }
    for gid, values in expected.items():
        found = marks(root, f"depth-{gid}")
        assert [value_at(ys, y, True) for _, y, _ in found] == pytest.approx(values, rel=2e-3)
    assert marks(root, "depth-drift")[0][0] == marks(root, "depth-solved")[1][0]


def test_a_line_breaks_where_a_layer_has_no_value() -> None:
    values = [10.0, 12.0, None, 14.0, math.inf, 9.0, 8.0]
    root = ElementTree.fromstring(depth_chart([line(str(i), 5.0, v) for i, v in enumerate(values)]))
    group = next(element for element in root.iter("g") if element.get("id") == "depth-solved")
    path = next(iter(group.iter("path"))).attrib["d"]
    assert [len(re.findall("[ML]", part)) for part in re.findall("M[^M]*", path)] == [2, 1, 2]
    assert len(marks(root, "depth-solved")) == 5
    assert "depth-drift" not in ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize("lines", [[], [line("a", None, math.inf)], [line("a", math.nan, None)]], ids=len)
def test_without_values_there_is_no_chart(lines: list) -> None:
    assert layers_chart(lines) == depth_chart(lines) == ""


def test_networks_lie_where_their_size_and_distortion_say() -> None:
    root = ElementTree.fromstring(pareto_chart(POINTS, 4_000_000, "KL divergence"))
    ys, xs = levels(root, "axes_1", "y"), levels(root, "axes_1", "x")
    for gid, kind in (("kind0", "uniform"), ("kind1", "allocated")):
        told = sorted((p.bytes / 1e6, p.distortion) for p in POINTS if p.kind.startswith(kind))
        found = [(value_at(xs, x), value_at(ys, y, True)) for x, y, _ in marks(root, f"pareto-{gid}")]
        assert found == [pytest.approx(pair, rel=5e-3) for pair in told]
    assert "uniform int4, 4,200,000 bytes: 0.03 KL divergence" in {t for *_, t in marks(root, "pareto-kind0")}
    texts = [text.text for text in root.iter("text")]
    assert {"int2", "int4", "int8", "MB", "KL divergence"} <= set(texts)
    size = next(element for element in root.iter("g") if element.get("id") == "pareto-size")
    x = float(re.findall(r"[\d.]+", next(iter(size.iter("path"))).attrib["d"])[0])
    assert value_at(xs, x) == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("nothing", [0.0, -1e-19, 1e-30, 5e-324])
def test_no_distortion_lies_on_a_line_of_its_own(nothing: float) -> None:
    root = ElementTree.fromstring(pareto_chart((*POINTS, Point("allocated", 9_000_000, nothing)), 5, "loss"))
    ys = levels(root, "axes_1", "y")
    assert ys["0"] > max(place for text, place in ys.items() if text != "0") + 5
    last = marks(root, "pareto-kind1")[-1]
    assert last[1] == pytest.approx(ys["0"], abs=0.01)
    assert last[2] == "allocated, 9,000,000 bytes: 0 loss"


@pytest.mark.parametrize(
    "points", [(), (Point("allocated", 5, math.nan),), (Point("uniform int8", 5, 0.0),)], ids=str
)
def test_without_a_distortion_there_is_no_picture(points: tuple[Point, ...]) -> None:
    assert pareto_chart(points, 5, "relative error") == ""


def test_what_is_not_finite_is_left_out() -> None:
    strange = (Point("uniform int3", 3, math.nan), Point("allocated", 4, math.inf))
    assert pareto_chart((*POINTS, *strange), 5, "loss") == pareto_chart(POINTS, 5, "loss")
    assert prices_chart([price("a", price=math.nan), price("b", price=0.0)]) == ""


@pytest.mark.parametrize("value", [1.0, 0.37, 1e-9, 1e12])
def test_one_point_is_drawn_inside(value: float) -> None:
    drawn = (
        pareto_chart((Point("allocated", 300, value),), 300, "loss"),
        prices_chart([price("a", price=value, uncertainty=0.0)]),
        depth_chart([line("a", 10 * math.log10(value), None)]),
    )
    for text in drawn:
        root = ElementTree.fromstring(text)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        places = [(float(use.attrib["x"]), float(use.attrib["y"])) for use in root.iter("use")]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_prices_have_a_mark_each_and_say_what_was_chosen() -> None:
    prices = [price("a"), price("b", price=math.inf), price("c", "float", price=2.0)]
    root = ElementTree.fromstring(prices_chart(prices))
    ys, xs = levels(root, "axes_1", "y"), levels(root, "axes_1", "x")
    found = marks(root, "prices-price")
    assert [title for *_, title in found] == ["a: 0.2, stored as int4 b32", "c: 2, stored as float"]
    assert [value_at(xs, x) for x, *_ in found] == pytest.approx([1, 3], abs=0.01)
    assert [value_at(ys, y, True) for _, y, _ in found] == pytest.approx([0.2, 2.0], rel=1e-2)


def test_each_of_few_codes_is_marked_at_its_place() -> None:
    root = ElementTree.fromstring(spread_chart(3, FOUR_BITS))
    found = marks(root, "spread3-codes")
    xs, ys = levels(root, "axes_1", "x"), levels(root, "axes_1", "y")
    assert [value_at(xs, x) for x, *_ in found] == pytest.approx(list(range(-8, 8)), abs=0.02)
    assert [value_at(ys, y) for _, y, _ in found] == pytest.approx([n / 120 for n in range(16)], abs=1e-3)
    assert found[5][2] == "code -3: 5 weights"
    assert "<svg" in spread_chart(0, EIGHT_BITS)


def test_colours_and_ids_are_of_the_page_and_nothing_is_loaded() -> None:
    drawn = [
        layers_chart(LINES),
        depth_chart(LINES),
        pareto_chart((*POINTS, Point(EVIL, 5, 0.1)), 5, "loss"),
        prices_chart([price(EVIL)]),
        spread_chart(0, FOUR_BITS),
        spread_chart(1, EIGHT_BITS),
    ]
    ids: list[str] = []
    for text in drawn:
        assert not re.search("#[0-9a-f]{6}", text)
        assert not any(word in text for word in ("xmlns", "http", "DejaVu", "<style type", "<b>"))
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        mine = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        ids += mine
        used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
        assert used <= set(mine)
        assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(COLOURS)
    assert len(ids) == len(set(ids))


def test_the_same_bytes_each_time_whatever_the_user_has_set() -> None:
    import matplotlib

    first = depth_chart(LINES)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "else"}):
        assert depth_chart(LINES) == first
