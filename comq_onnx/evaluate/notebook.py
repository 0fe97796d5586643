"""The report as an object that is printed, or shown in a notebook: short, in the page's own colours."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.table import cells, closeness, columns, summary

MOST_NOTES, MOST_LAYERS = 5, 200
"""More are counted: a notebook keeps what it shows"""
LEFT = 'style="text-align: left"'


def one_line(report: Report) -> str:
    """``<Report out.onnx: 34 weights quantized, ...>``: file, weights, bytes and checks."""
    checks = report.verification.checks
    failed = sum(not check.ok for check in checks)
    said = f"{failed} of {len(checks)} checks failed" if failed else f"{len(checks)} checks passed"
    return (
        f"<Report {_name(report)}: {len(report.quantized)} weights quantized, {len(report.kept)} kept float, "
        f"{_sizes(report)}, {said}>"
    )


def as_text(report: Report) -> str:
    """Totals, checks and remarks, a sentence a line."""
    return "\n".join(summary(report)).strip()


def as_html(report: Report) -> str:
    """A table of what became of the model; remarks and layers are folded away."""
    rows = [
        ("file", ", ".join(report.files)),
        ("size", _sizes(report)),
        ("weights", _weights(report)),
        *((f"output {line.output}", closeness(line)) for line in report.verification.fidelity),
        ("target", report.target),
        ("calibrated on", report.calibration),
        ("time", f"{report.seconds:.1f} s"),
    ]
    body = "".join(f"<tr><th {LEFT}>{escape(a)}</th><td {LEFT}>{escape(b)}</td></tr>" for a, b in rows)
    body += f"<tr><th {LEFT}>checks</th><td {LEFT}>{_checks(report)}</td></tr>"
    return f"<div><table>{body}</table>{_notes(report.notes)}{_layers(report)}</div>"


def _name(report: Report) -> str:
    return Path(report.files[0]).name if report.files else "of no file"


def _sizes(report: Report) -> str:
    share = report.bytes_after / report.bytes_before
    return f"{report.bytes_before:,} -> {report.bytes_after:,} bytes ({share:.2f}x)"


def _weights(report: Report) -> str:
    halved = f", {len(report.halved)} stored as float16" if report.halved else ""
    return f"{len(report.quantized)} quantized{halved}, {len(report.kept)} kept float"


def _checks(report: Report) -> str:
    """HTML: that all passed, or those that did not."""
    failed = [check for check in report.verification.checks if not check.ok]
    if not failed:
        return f"{len(report.verification.checks)} passed"
    return "<br>".join(f"<b>failed: {escape(check.name)}</b> ({escape(check.detail)})" for check in failed)


def _notes(notes: tuple[str, ...]) -> str:
    """HTML: the first remarks in full, and how many there are besides."""
    if not notes:
        return ""
    more = [f"and {len(notes) - MOST_NOTES} more in report.notes"] if len(notes) > MOST_NOTES else []
    items = "".join(f"<li>{escape(note)}</li>" for note in (*notes[:MOST_NOTES], *more))
    return f"<details open><summary>Notes</summary><ul>{items}</ul></details>"


def _layers(report: Report) -> str:
    """HTML: the table of layers, folded away."""
    lines = (*report.quantized, *report.halved, *report.kept)
    rows = [_row("td", cells(line, report.drifting)) for line in lines[:MOST_LAYERS]]
    more = f"<p>and {len(lines) - MOST_LAYERS} more in report.lines</p>" if len(lines) > MOST_LAYERS else ""
    table = f"<table>{_row('th', columns(report))}{''.join(rows)}</table>{more}"
    return f"<details><summary>{len(lines)} layers</summary>{table}</details>"


def _row(tag: str, texts: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag} {LEFT}>{escape(text)}</{tag}>" for text in texts) + "</tr>"
