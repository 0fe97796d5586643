"""The report as a page: it parses, loads nothing, tells of every layer, and its plot is right."""

import math
from html.parser import HTMLParser

from evaluate.reporting import kept, line, report

from comq_onnx.evaluate.page import page

EVIL = "<b>&"
VOID = {"meta"}


class Document(HTMLParser):
    """Tags with their attributes, the text of cells and of all else; counts tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def of(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]


def series_of(document: Document) -> dict[str, list[tuple[float, float]]]:
    """Points by series."""
    found: dict[str, list[tuple[float, float]]] = {}
    name = ""
    for tag, attributes in document.tags:
        name = attributes.get("data-series") or name
        if tag == "circle":
            found.setdefault(name, []).append((float(attributes["cx"] or 0), float(attributes["cy"] or 0)))
    return found


def test_it_parses_and_holds_every_layer_once() -> None:
    names = ["enc/a", "enc/b", "enc/c"]
    text = page(report(*(line(name, 20.0, 25.0) for name in names), kept("lstm")))
    document = Document(text)
    assert document.open == []
    for name in (*names, "lstm"):
        assert document.of("td").count(name) == 1
        assert text.count(name) == 1
    assert document.of("title")[0] == "comq-onnx 1.2.3: 3 weights quantized"
    assert "FAIL" in document.of("span")
    assert any("31.5 dB" in text for text in document.of("li"))
    assert any("'m & n'" in text for text in document.of("li"))
    assert any("1,000 -> 250 bytes (0.25x)" in text for text in document.of("p"))


def test_it_loads_nothing() -> None:
    tags = Document(page(report(line("a", 20.0, 25.0)))).tags
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in tags)
    assert all({"src", "href"}.isdisjoint(attributes) for _, attributes in tags)


def test_an_evil_name_is_text() -> None:
    text = page(report(line(EVIL, 20.0, 25.0), kept("<script>alert(1)</script>")))
    document = Document(text)
    assert {"b", "script"}.isdisjoint(tag for tag, _ in document.tags)
    assert document.of("td").count(EVIL) == 1
    assert "<td>&lt;b&gt;&amp;</td>" in text


def test_points_go_right_and_lie_at_their_values() -> None:
    before, after = [20.0, 11.5, 17.0, 3.25], [26.0, 14.5, 22.0, 9.0]
    drift = [0.0, 1e-3, 2e-2, 1e-2]
    lines = [line(str(i), b, a, d) for i, (b, a, d) in enumerate(zip(before, after, drift, strict=True))]
    document = Document(page(report(*lines)))
    found = series_of(document)
    # The scale is read off the gridlines and their labels, as an eye does.
    levels = [float(a["y1"] or 0) for tag, a in document.tags if tag == "line" and a.get("class") == "grid"]
    labels = [float(text) for text in document.of("text")[: len(levels)]]
    slope = (labels[-1] - labels[0]) / (levels[-1] - levels[0])

    def value(y: float) -> float:
        return labels[0] + slope * (y - levels[0])

    assert slope < 0
    expected = {
        "round-to-nearest": before,
        "as solved (comq)": after,
        # The first layer is fed the same by both networks: no finite value, no point.
        "input": [-10 * math.log10(d) for d in drift[1:]],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        xs = [x for x, _ in found[name]]
        assert xs == sorted(set(xs))
        read = [value(y) for _, y in found[name]]
        assert all(math.isclose(a, b, abs_tol=0.01) for a, b in zip(read, values, strict=True))
    assert found["input"][0][0] == found["round-to-nearest"][1][0]


def test_a_break_where_a_layer_has_no_value() -> None:
    values = [10.0, 12.0, None, 14.0, math.inf, 9.0, 8.0]
    document = Document(page(report(*(line(str(i), 5.0, v) for i, v in enumerate(values)))))
    lines = [a["points"] or "" for tag, a in document.tags if tag == "polyline"]
    assert [len(points.split()) for points in lines] == [7, 2, 2]
    assert len(series_of(document)["as solved (comq)"]) == 5


def test_without_values_there_is_no_plot() -> None:
    for lines in ([], [line("a", None, math.inf)]):
        document = Document(page(report(*lines)))
        assert "svg" not in {tag for tag, _ in document.tags}
        assert any("No layer" in text for text in document.of("p"))


def test_one_layer_and_equal_values_are_drawn_inside() -> None:
    document = Document(page(report(line("a", 7.0, 7.0))))
    for points in series_of(document).values():
        assert len(points) == 1
        assert all(0 < x < 960 and 0 <= y <= 320 for x, y in points)


def test_drift_is_a_column_only_where_there_is_some() -> None:
    assert "input dB" not in Document(page(report(line("a", 5.0, 6.0)))).of("th")
    document = Document(page(report(line("a", 5.0, 6.0, 0.001), line("b", 5.0, 6.0, 0.0), kept("c"))))
    assert "input dB" in document.of("th")
    assert "30.0" in document.of("td")
    assert "inf" in document.of("td")
