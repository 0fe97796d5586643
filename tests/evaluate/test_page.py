"""The report as a page: it parses, loads nothing, and tells of every layer."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from evaluate.reporting import halved, kept, line, report

from comq_onnx.evaluate.page import page
from comq_onnx.evaluate.tiles import size, tiles
from comq_onnx.evaluate.verify import Check, Fidelity, Verification
from comq_onnx.records import ActivationKind, ValueGrid

EVIL = "<b>&"
VOID = {"meta"}
"""Tags that are never closed"""


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


def test_it_parses_and_holds_every_layer_once() -> None:
    names = ["enc/a", "enc/b", "enc/c"]
    document = Document(page(report(*(line(name, 20.0, 25.0) for name in names), kept("lstm"))))
    assert document.open == []
    cells = document.of("td")
    for name in names:
        assert cells.count(name) == 1
    # Once among all weights, once among those kept float.
    assert cells.count("lstm") == 2
    assert document.of("title")[0] == document.of("h1")[0] == "out.onnx: 3 weights quantized"
    assert "FAIL" in document.of("span")
    assert any("31.5 dB" in text for text in document.of("li"))
    assert any("'m & n'" in text for text in document.of("li"))


def test_the_summary_comes_first_and_says_what_matters() -> None:
    made = report(line("a", 20.0, 25.0), line("b", 20.0, 25.0), halved("h"), kept("k"))
    document = Document(page(made))
    assert document.of("h2")[0] == "Summary"
    told = dict(zip(document.of("dt"), document.of("strong"), strict=True))
    assert told == {
        "Size": "1 kB → 250 bytes",
        "Fidelity": "31.5 dB",
        "Weights quantized": "2 of 4",
        "Time": "1.0 s",
        "Target": "portable",
        "Verified": "1 of 2 checks",
    }
    more = {one.name: one.more for one in tiles(made)}
    assert more["Size"] == "0.25x: 1,000 → 250 bytes"
    assert more["Weights quantized"] == "1 stored as float16, 1 kept float (64 bytes)"
    # 31.5 dB are a factor of 10 ** 1.575 between the norms.
    assert more["Fidelity"] == "output y: 2.66% relative error on calibration samples"
    assert more["Verified"] == "failed: lint; not run in any runtime"


def test_the_summary_names_where_the_file_was_run() -> None:
    checks = (
        Check("runs in onnxruntime", True, "as it is"),
        Check("OpenVINO = onnxruntime, exact", True, "largest relative deviation 0"),
        Check("onnxruntime-web", True, "not looked at: no Node"),
    )
    agreeing = (Fidelity("ids", None, 0.75), Fidelity("shape", None, None))
    made = replace(report(line("a", 1.0, 2.0)), verification=Verification(checks, agreeing))
    told = {one.name: one for one in tiles(made)}
    assert (told["Verified"].value, told["Verified"].more) == ("all 3 checks", "run in onnxruntime, OpenVINO")
    assert told["Fidelity"].value == "75.0%"
    lost = replace(made, verification=Verification(checks, agreeing[1:]))
    assert {one.name: one.value for one in tiles(lost)}["Fidelity"] == "not known"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (97_354, "97.4 kB"), (999_600, "1 MB")]
    + [(90_441_127, "90.4 MB"), (2.5e9, "2.5 GB"), (4.2e12, "4,200 GB")],
)
def test_sizes_have_three_digits(count: float, words: str) -> None:
    assert size(count) == words


def test_what_stayed_float_is_grouped_by_its_reason() -> None:
    large = replace(kept("big"), reason="excluded", bytes_before=10_000)
    document = Document(page(report(line("a", 1.0, 2.0), kept("k1"), kept("k2"), large)))
    cells = document.of("td")
    at = cells.index("its op is not quantized")
    assert cells[at : at + 4] == ["its op is not quantized", "2", "128", "k1, k2"]
    assert cells[at - 4 : at] == ["excluded", "1", "10,000", "big"]
    assert "Kept float" not in Document(page(report(line("a", 1.0, 2.0)))).of("h2")


def test_activations_say_what_their_codes_reach() -> None:
    grids = {
        "h": ValueGrid(0.5, 10, ActivationKind(signed=False, symmetric=False)),
        "g": ValueGrid(0.25, 0, ActivationKind(signed=True, symmetric=True)),
    }
    document = Document(page(replace(report(line("a", 1.0, 2.0)), activations=grids)))
    cells = document.of("td")
    assert cells[cells.index("h") :][:6] == ["h", "uint8", "0.5", "10", "-5", "122.5"]
    assert cells[cells.index("g") :][:6] == ["g", "int8", "0.25", "0", "-32", "31.75"]


def test_it_tells_how_to_make_the_file_again() -> None:
    made = replace(
        report(line("a", 1.0, 2.0)),
        recipe={"weights": "int8", "rules": ("a<b=int4",)},
        command="comq-onnx net.onnx --rule 'a<b=int4'",
        versions={"numpy": "2.0"},
    )
    document = Document(page(made))
    command, recipe = document.of("pre")
    assert command == made.command
    assert 'weights = "int8"' in recipe
    assert "a<b=int4" in recipe
    assert document.of("td")[-2:] == ["numpy", "2.0"]


def test_without_matplotlib_the_page_has_no_charts_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comq_onnx.evaluate.svg.find_spec", lambda name: None)
    document = Document(page(report(line("a", 1.0, 2.0), kept("k"))))
    assert "svg" not in {tag for tag, _ in document.tags}
    assert any("comq-onnx[report]" in text for text in document.of("p"))
    assert {"Summary", "Checks", "All weights"} <= set(document.of("h2"))
    assert document.open == []
    monkeypatch.undo()
    assert not any("comq-onnx[report]" in t for t in Document(page(report(line("a", 1.0, 2.0)))).of("p"))


def test_the_same_report_is_the_same_page() -> None:
    made = report(line("a", 1.0, 2.0, 0.1), line("b", 1.5, 2.5, 0.2))
    assert page(made) == page(made)


def test_layers_without_losses_are_told() -> None:
    assert any("No layer" in text for text in Document(page(report())).of("p"))


def test_it_loads_nothing() -> None:
    tags = Document(page(report(line("a", 20.0, 25.0)))).tags
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in tags)
    assert all("src" not in attributes for _, attributes in tags)
    # Links within the page, and marks of its charts.
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in tags)
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_an_evil_name_is_text() -> None:
    for name in (EVIL, "$a_b$", "</title></svg>"):
        text = page(report(line(name, 20.0, 25.0), kept("<script>alert(1)</script>")))
        document = Document(text)
        assert {"b", "script"}.isdisjoint(tag for tag, _ in document.tags)
        assert document.of("td").count(name) == 1
        assert f"{name}: 25.0 dB as solved" in document.of("title")
        assert document.open == []


def test_drift_is_a_column_only_where_there_is_some() -> None:
    assert "input dB" not in Document(page(report(line("a", 5.0, 6.0)))).of("th")
    document = Document(page(report(line("a", 5.0, 6.0, 0.001), line("b", 5.0, 6.0, 0.0), kept("c"))))
    assert "input dB" in document.of("th")
    assert "30.0" in document.of("td")
    assert "inf" in document.of("td")
