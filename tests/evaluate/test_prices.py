"""What an allocation says in words, in a terminal, on the page and in JSON."""

import json
import math
from dataclasses import replace

from evaluate.allocating import POINTS, allocation, price
from evaluate.reporting import halved, kept, line, report
from evaluate.test_page import EVIL, Document

from comq_onnx.allocate.allocation import Allocation
from comq_onnx.evaluate.page import page
from comq_onnx.evaluate.prices import told
from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.table import summary, totals


def allocated(made: Allocation) -> Report:
    return replace(report(line("a", 5.0, 6.0)), allocation=made)


def test_the_sentences_in_a_terminal() -> None:
    lines = summary(allocated(allocation(price("a"), notes=("prices are rough",))))
    at = lines.index("4.0 MB were asked for, 4,000,000 bytes are used.")
    assert lines[:at] == ["", *totals(report(line("a", 5.0, 6.0)))]
    assert lines[at + 1] == (
        "uniform int4 would take 4,200,000 bytes with an effect of 0.036 (relative error of outputs); "
        "as allocated the file takes 4,000,000 bytes with one of 0.009 (0.25 times as much)."
    )
    assert lines[at + 2] == "One more per cent would buy 5 per cent less effect."
    assert lines[at + 3] == "note: prices are rough"
    assert not any("uniform" in text for text in summary(report(line("a", 5.0, 6.0))))


def test_no_ratio_where_there_is_none() -> None:
    for effect in (0.0, math.nan, math.inf):
        made = allocation(uniform=("int8", 8, effect), effect=math.inf)
        assert "uniform int8 would take 8 bytes" in told(made)[1]
        assert "times" not in told(made)[1]
    assert len(told(allocation(uniform=("", 0, 0.0)))) == 2


def test_grids_are_counted_where_there_are_several() -> None:
    wide = replace(line("c", 5.0, 6.0), grid="int8 channel", bytes_after=1500)
    lines = summary(report(line("a", 5.0, 6.0), line("b", 5.0, 6.0), wide, halved("h"), kept("k")))
    assert lines[2] == (
        "Weights by grid: int8 channel in 1 (1,500 bytes), float16 in 1 (32 bytes), "
        "int4 channel in 2 (16 bytes)."
    )
    assert not any("by grid" in text for text in summary(report(line("a", 5.0, 6.0), kept("k"))))


def test_the_page_has_prices_and_the_picture() -> None:
    document = Document(page(allocated(allocation(price("enc/a"), price("enc/b", "float")))))
    assert document.open == []
    assert {"Size against fidelity", "Dual prices", "Loss along depth"} <= set(document.of("h2"))
    assert [tag for tag, _ in document.tags].count("svg") == 4
    cells = document.of("td")
    at = cells.index("enc/a")
    assert cells[at : at + 7] == ["enc/a", "0.2", "0.07", "int4 b32", "640", "0.0032", "0.00064"]
    assert cells[at + 7 : at + 14] == ["enc/b", "0.2", "0.07", "float", "4,096", "0", "0"]
    # Below it all that a layer could have been.
    assert cells[at + 14 : at + 19] == ["enc/a", "float", "4,096", "0", "0"]
    assert cells[at + 19 : at + 24] == ["enc/a", "int8 channel", "1,088", "1.25e-05", "2.5e-06"]
    assert any("Prices come from 16 calibration batches" in text for text in document.of("p"))
    assert any("0.25 times as much" in text for text in document.of("p"))
    assert "^a$=int4:32\nb<c&d=int8" in document.of("pre")
    assert "script" not in {tag for tag, _ in document.tags}


def test_the_page_without_points_says_so() -> None:
    document = Document(page(allocated(allocation(price("x"), points=()))))
    assert "No network was measured that can be drawn." in document.of("p")
    assert [tag for tag, _ in document.tags].count("svg") == 3
    assert document.open == []


def test_evil_names_are_text() -> None:
    made = allocation(price(EVIL, EVIL), points=(replace(POINTS[-1], kind=EVIL),), notes=(EVIL,))
    document = Document(page(allocated(replace(made, budget=EVIL, next_percent=EVIL, measure=EVIL))))
    assert "b" not in {tag for tag, _ in document.tags}
    # The layer in the row of its price and of three candidates, and the choice.
    assert document.of("td").count(EVIL) == 5
    assert document.of("li").count(EVIL) == 1
    assert document.of("p").count(EVIL) == 2
    assert document.open == []


def test_json_has_the_allocation_and_is_finite() -> None:
    bad = allocation(price("a", price=math.nan, uncertainty=math.inf), effect=math.inf)
    told = json.loads(json.dumps(allocated(bad).as_dict(), allow_nan=False))["allocation"]
    assert told["prices"][0]["price"] is None
    assert told["prices"][0]["uncertainty"] is None
    assert told["effect"] is None
    assert told["uniform"] == ["int4", 4_200_000, 0.036]
    assert told["prices"][0]["candidates"][2]["width"] == "int4:32"
    assert told["points"][0] == {"kind": "uniform int8", "bytes": 8_000_000, "distortion": 2e-4}
    assert report().as_dict()["allocation"] is None
    cells = Document(page(allocated(bad))).of("td")
    assert cells[cells.index("a") :][:3] == ["a", "-", "-"]
