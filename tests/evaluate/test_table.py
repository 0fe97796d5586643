"""The report in a terminal."""

from io import StringIO

from evaluate.reporting import kept, line, report
from rich.console import Console

from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.table import print_report


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
