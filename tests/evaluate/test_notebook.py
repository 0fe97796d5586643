"""What a report looks like when it is printed, or shown in a notebook."""

import math
from dataclasses import replace
from html.parser import HTMLParser

from evaluate.reporting import halved, kept, line, report

from comq_onnx.evaluate.notebook import MOST_LAYERS, MOST_NOTES

VOID = {"br", "meta"}


class Seen(HTMLParser):
    """Text, cells and details; what is opened is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.tags, self.text = list[str](), list[str](), ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += f"{data}\n"


def test_a_line_tells_file_weights_bytes_and_failed_checks() -> None:
    made = report(line("a", 10.0, 20.0), line("b", None, math.inf), kept("c"))
    assert repr(made) == (
        "<Report out.onnx: 2 weights quantized, 1 kept float, 1,000 -> 250 bytes (0.25x), "
        "1 of 2 checks failed>"
    )


def test_printed_it_is_what_the_command_says() -> None:
    first, *_, last = str(report(line("a", 10.0, 20.0))).splitlines()
    assert first.startswith("1 weights quantized, 0 kept float; 1,000 -> 250 bytes")
    assert last == "Written: out.onnx"


def test_a_notebook_shows_a_table_with_layers_folded_away() -> None:
    made = report(line("a <b>", 10.0, 20.0), kept("c & d"), halved("e"))
    seen = Seen(made._repr_html_())
    for words in ("1,000 -> 250 bytes (0.25x)", "1 quantized, 1 stored as float16, 1 kept float", "31.5 dB"):
        assert words in seen.text
    for words in ("failed: lint", "a < b", "a <b>", "c & d", "10.0 -> 20.0", "3 layers"):
        assert words in seen.text
    assert "b" in seen.tags  # the failed check, not the layer's name
    assert seen.tags.count("b") == 1
    assert seen.tags.count("details") == 2
    assert not {"script", "style", "img", "link"} & set(seen.tags)


def test_it_stays_short() -> None:
    made = replace(report(*[line(f"n{i}", 1.0, 2.0) for i in range(5000)]), notes=("careful",) * 50)
    html = made._repr_html_()
    assert len(html) < 150_000
    assert f"and {5000 - MOST_LAYERS} more in report.lines" in html
    assert f"and {50 - MOST_NOTES} more in report.notes" in html
