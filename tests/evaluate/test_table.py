"""The report in a terminal."""

from io import StringIO

from evaluate.reporting import halved, kept, line, report
from rich.console import Console

from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.table import print_plan, print_report
from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid
from comq_onnx.records import Layer


def printed(made: Report) -> str:
    out = StringIO()
    print_report(made, Console(file=out, width=200))
    return out.getvalue()


def test_how_far_inputs_drift_is_told_only_where_some_do() -> None:
    assert "input dB" not in printed(report(line("a", 5.0, 6.0), kept("k")))
    heading, first, second, third, *_ = printed(
        report(line("a", 5.0, 6.0, 0.0), line("b", 5.0, 6.0, 0.01), line("c", 5.0, 6.0))
    ).splitlines()
    at = heading.index("input dB")
    told = [row[at : at + 8].strip() for row in (first, second, third)]
    assert told == ["inf", "20.0", "-"]


def test_a_weight_stored_as_float16_is_neither_quantized_nor_kept() -> None:
    made = report(line("a", 5.0, 6.0), kept("k"), halved("h"))
    out = printed(made)
    assert [row.split()[0] for row in out.splitlines()[1:4]] == ["a", "h", "k"]
    row = out.splitlines()[2].split()
    assert row == ["h", "Conv", "4x4", "float16", "64", "->", "32", "on", "disk"]
    assert "1 weights quantized, 1 stored as float16, 1 kept float (1 its op is not quantized);" in out
    assert not any(text.startswith("h") for text in made.blemishes)
    assert "float16" not in printed(report(line("a", 5.0, 6.0), kept("k")))


def test_a_plan_has_weights_that_would_be_float16() -> None:
    layers = [Layer(n, "Conv", n, "x", "y", layout_of("conv", (8, 4, 3, 3)), "float32") for n in "ab"]
    out = StringIO()
    print_plan(layers[:1], (), {"a": Grid(4)}, {}, Console(file=out, width=200), layers[1:])
    assert out.getvalue().splitlines()[2].split() == ["b", "Conv", "8x4x3x3", "float16", "1,152", "->", "576"]
    assert "1 weights would be quantized" in out.getvalue()
    assert "1 stored as float16, 0 kept float" in out.getvalue()
