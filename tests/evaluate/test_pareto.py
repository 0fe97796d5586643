"""The picture of size against fidelity: it is XML, and its points lie where their axes say."""

import math
from xml.etree import ElementTree

import pytest
from evaluate.allocating import POINTS

from comq_onnx.allocate.allocation import Point
from comq_onnx.evaluate.pareto import log_ticks, pareto_plot

SVG = "{http://www.w3.org/2000/svg}"
EVIL = 'by <b>"loss"</b> & size'


def drawn(points: tuple[Point, ...], chosen: int = 4_000_000) -> ElementTree.Element:
    return ElementTree.fromstring(pareto_plot(points, chosen, "KL divergence"))


def groups(root: ElementTree.Element) -> dict[str, list[tuple[float, float]]]:
    """Points by series."""
    return {
        group.attrib["data-series"]: [
            (float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in group.iter(f"{SVG}circle")
        ]
        for group in root.iter(f"{SVG}g")
    }


def levels(root: ElementTree.Element) -> dict[float, float]:
    """Pixels of the gridlines by what their labels say."""
    lines = [float(line.attrib["y1"]) for line in root.iter(f"{SVG}line") if line.get("class") == "grid"]
    labels = [float(text.text or "") for text in root.iter(f"{SVG}text") if text.get("class") == "tick"]
    return dict(zip(labels, lines, strict=True))


def megabytes(root: ElementTree.Element) -> dict[float, float]:
    """Pixels along x by what their labels say."""
    found = {}
    for text in root.iter(f"{SVG}text"):
        if text.attrib["y"] == "300":
            found[float(text.text or "")] = float(text.attrib["x"])
    return found


def titles(root: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in root.iter(f"{SVG}title")]


def inside(root: ElementTree.Element) -> bool:
    places = [place for places in groups(root).values() for place in places]
    return all(0 <= x <= 960 and 0 <= y <= 320 for x, y in places)


def test_points_lie_where_the_labels_say() -> None:
    root = drawn(POINTS)
    rows, columns = levels(root), megabytes(root)
    (down, up), (left, right) = (min(rows), max(rows)), (min(columns), max(columns))
    tall = (rows[up] - rows[down]) / math.log10(up / down)
    wide = (columns[right] - columns[left]) / (right - left)
    assert tall < 0 < wide
    found = groups(root)
    assert list(found) == ["uniform", "allocated"]
    for series, places in found.items():
        told = sorted((p.bytes / 1e6, p.distortion) for p in POINTS if p.kind.startswith(series))
        read = [
            (left + (x - columns[left]) / wide, down * 10 ** ((y - rows[down]) / tall)) for x, y in places
        ]
        for (size, distortion), (size_read, distortion_read) in zip(told, read, strict=True):
            assert math.isclose(size, size_read, rel_tol=1e-3)
            assert math.isclose(distortion, distortion_read, rel_tol=1e-2)
    # All lines between the ends are where a logarithm puts them.
    for value, y in rows.items():
        assert math.isclose(y, rows[down] + tall * math.log10(value / down), abs_tol=0.02)


def test_the_allocator_is_a_line_and_uniform_widths_have_labels() -> None:
    root = drawn(POINTS)
    lines = list(root.iter(f"{SVG}polyline"))
    assert len(lines) == 1
    path = [tuple(map(float, pair.split(","))) for pair in lines[0].attrib["points"].split()]
    assert path == groups(root)["allocated"]
    assert [x for x, _ in path] == sorted(x for x, _ in path)
    group = next(g for g in root.iter(f"{SVG}g") if g.attrib["data-series"] == "uniform")
    assert [text.text for text in group.iter(f"{SVG}text")] == ["int2", "int4", "int8"]


def test_every_point_has_a_title_and_the_chosen_one_a_mark() -> None:
    root = drawn(POINTS)
    assert "uniform int4, 4.2 MB (4,200,000 bytes): 0.03 KL divergence" in titles(root)
    assert "allocated, 5 MB (5,000,000 bytes): 0.004 KL divergence" in titles(root)
    assert "chosen: 4 MB (4,000,000 bytes)" in titles(root)
    ring = next(dot for dot in root.iter(f"{SVG}circle") if dot.get("class") == "chosen")
    assert (float(ring.attrib["cx"]), float(ring.attrib["cy"])) == groups(root)["allocated"][1]
    line = next(line for line in root.iter(f"{SVG}line") if line.get("class") == "chosen")
    assert float(line.attrib["x1"]) == float(ring.attrib["cx"])


def test_a_size_that_was_not_measured_has_a_line_but_no_ring() -> None:
    # It lies outside the points, which the axis makes room for; a uniform file of its size is not it.
    root = drawn((*POINTS, Point("uniform int3", 12_000_000, 0.5)), 12_000_000)
    assert not [dot for dot in root.iter(f"{SVG}circle") if dot.get("class") == "chosen"]
    line = next(line for line in root.iter(f"{SVG}line") if line.get("class") == "chosen")
    assert 48 <= float(line.attrib["x1"]) <= 948
    assert inside(root)


@pytest.mark.parametrize("nothing", [0.0, -1e-19, 1e-30, 5e-324])
def test_no_distortion_lies_on_a_line_of_its_own(nothing: float) -> None:
    root = drawn((*POINTS, Point("uniform float16", 9_000_000, nothing)))
    rows = levels(root)
    positive = {value: y for value, y in rows.items() if value > 0}
    assert set(rows) - set(positive) == {0.0}
    assert rows[0.0] > max(positive.values()) + 10
    assert groups(root)["uniform"][-1][1] == rows[0.0]
    assert "uniform float16, 9 MB (9,000,000 bytes): 0 KL divergence" in titles(root)
    assert inside(root)


def test_what_is_not_finite_is_left_out() -> None:
    strange = (Point("uniform int3", 3, math.nan), Point("allocated", 4, math.inf))
    assert groups(drawn((*POINTS, *strange))) == groups(drawn(POINTS))


@pytest.mark.parametrize(
    "points", [(), (Point("allocated", 5, math.nan),), (Point("uniform int8", 5, 0.0),)], ids=str
)
def test_without_a_distortion_there_is_no_picture(points: tuple[Point, ...]) -> None:
    assert pareto_plot(points, 5, "relative error") == ""


def test_one_point_is_drawn_inside() -> None:
    for distortion in (1.0, 0.1, 0.37, 1e-9, 1e12):
        for size in (0, 300, 5_000_000):
            root = drawn((Point("allocated", size, distortion),), size)
            assert inside(root)
            assert not list(root.iter(f"{SVG}polyline"))
            assert len(levels(root)) >= 2


def test_kinds_are_text_and_series_of_their_own() -> None:
    root = drawn((*POINTS, Point(EVIL, 3_500_000, 0.1), Point(f"uniform {EVIL}", 3_600_000, 0.1)))
    assert set(groups(root)) == {"uniform", "allocated", EVIL}
    assert not list(root.iter("b"))
    assert any(title.startswith(EVIL) for title in titles(root))
    assert [text.text for text in root.iter(f"{SVG}text")].count(EVIL) == 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.012, 0.045, [0.01, 0.02, 0.05]),
        (0.3, 0.3, [0.2, 0.5]),
        (1.0, 1.0, [1, 2]),
        (2e-4, 4.0, [1e-4, 1e-3, 1e-2, 1e-1, 1, 10]),
        (1e-12, 1.0, [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1]),
    ],
)
def test_lines_of_the_logarithmic_axis(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected, rel=1e-12)


def test_lines_reach_over_all_values() -> None:
    for first in range(-60, 20):
        for length in range(45):
            low, high = 10 ** (first / 4), 10 ** ((first + length) / 4)
            lines = log_ticks(low, high)
            assert 2 <= len(lines) <= 9
            assert lines[0] <= low * (1 + 1e-12)
            assert lines[-1] >= high * (1 - 1e-12)
            assert lines == sorted(set(lines))
