"""The report as a page of its own: one HTML file without scripts, which loads nothing.

Its plot shows the loss of each layer along the depth of the model. A loss that jumps up and down from layer
to layer, rather than growing slowly, is what MRECG (arXiv 2303.11906) calls oscillation and ties to lost
accuracy.
"""

from collections.abc import Iterable
from html import escape

from comq_onnx.allocate.allocation import Allocation
from comq_onnx.evaluate.pareto import pareto_plot
from comq_onnx.evaluate.plot import Series, line_plot
from comq_onnx.evaluate.prices import COLUMNS, candidates, price_cells, source, told
from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.table import cells, closeness, columns, input_decibel, totals

BEFORE, AFTER, INPUT = "#d9822b", "#2b7bd9", "#3a9d5d"
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: 2px 8px; text-align: left; border-bottom: 1px solid #8884; overflow-wrap: anywhere }
td.cell { white-space: nowrap }
.fail { color: #c33; font-weight: bold }
svg { width: 100%; height: auto }
svg text { font-size: 11px; fill: currentColor; stroke: none }
svg line.grid { stroke: #8886; stroke-width: 0.5 }
svg polyline { stroke-width: 1.5 }
"""
LEGEND = (
    "Signal over error of each layer's output by round-to-nearest and as solved, on its calibration inputs; "
    "higher is better."
)
LEGEND_INPUT = (
    "The input is how close what a layer is fed by the quantized layers before it is to what the float "
    "network feeds it; there is no point where it is the same."
)

LEGEND_PARETO = (
    "Whole networks on calibration samples, with fast solutions of their layers; further down and to the "
    "left is better. The dashed line is the size of the file that was chosen."
)
LEGEND_PRICES = (
    "A price is the distortion of the network's outputs for each unit of a layer's relative distortion; its "
    "uncertainty is the standard error of its logarithm, so that 0.1 is about 10 per cent. An effect is "
    "the distortion that a candidate makes of the outputs, as far as prices tell."
)


def page(report: Report) -> str:
    """The whole report as an HTML document."""
    title = f"comq-onnx {report.version}: {len(report.quantized)} weights quantized"
    parts = [
        f"<h1>{escape(title)}</h1>",
        *_paragraphs(totals(report)),
        *_paragraphs(["Written: " + ", ".join(report.files)]),
        "<h2>Checks</h2>",
        *_checks(report),
        *(["<h2>Notes</h2>", *_list(map(escape, report.notes))] if report.notes else []),
        *_allocation(report.allocation),
        "<h2>Loss along depth</h2>",
        *_plot(report),
        "<h2>Layers</h2>",
        *_table(report),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [f"<p>{escape(text)}</p>" for text in texts]


def _list(items: Iterable[str]) -> list[str]:
    """`items` are HTML; nothing without items."""
    entries = [f"<li>{item}</li>" for item in items]
    return ["<ul>", *entries, "</ul>"] if entries else []


def _checks(report: Report) -> list[str]:
    checks = [
        ("ok " if check.ok else '<span class="fail">FAIL</span> ') + escape(f"{check.name}: {check.detail}")
        for check in report.verification.checks
    ]
    outputs = [escape(f"output {line.output}: {closeness(line)}") for line in report.verification.fidelity]
    return _list([*checks, *outputs])


def _allocation(allocation: Allocation | None) -> list[str]:
    """What a budget bought, and why; nothing where no budget chose the widths."""
    if allocation is None:
        return []
    drawn = pareto_plot(allocation.points, allocation.file_bytes, allocation.measure)
    picture = [drawn, *_paragraphs([LEGEND_PARETO])]
    return [
        "<h2>Size against fidelity</h2>",
        *_paragraphs(told(allocation)),
        *_list(map(escape, allocation.notes)),
        *(picture if drawn else _paragraphs(["No network was measured that can be drawn."])),
        "<h2>Dual prices</h2>",
        *_paragraphs([source(allocation), LEGEND_PRICES]),
        *_prices(allocation),
        *_rules(allocation.rules),
    ]


def _prices(allocation: Allocation) -> list[str]:
    """A row for each layer; of its candidates the chosen one is bold."""
    rows = []
    for price in allocation.prices:
        first, *inner = price_cells(price)
        stores = [
            f"<b>{escape(text)}</b>" if name == price.chosen else escape(text)
            for name, text in candidates(price)
        ]
        middle = "".join(f'<td class="cell">{escape(text)}</td>' for text in inner)
        rows.append(f"<tr><td>{escape(first)}</td>{middle}<td>{'; '.join(stores)}</td></tr>")
    return _rows(COLUMNS, rows)


def _rules(rules: Iterable[str]) -> list[str]:
    """The choice by hand, folded away."""
    text = escape("\n".join(rules))
    summary = "<summary>The same choice by hand</summary>"
    return [f"<details>{summary}<pre>{text}</pre></details>"] if text else []


def _plot(report: Report) -> list[str]:
    """The layers' SQNR before and after, and that of their inputs where these drift, in graph order."""
    lines = report.quantized
    solver = report.recipe.get("solver", "comq")
    series = [
        Series("round-to-nearest", BEFORE, tuple(line.sqnr_before for line in lines)),
        Series(f"as solved ({solver})", AFTER, tuple(line.sqnr_after for line in lines)),
    ]
    legend = LEGEND
    if report.drifting:
        series.append(Series("input", INPUT, tuple(map(input_decibel, lines))))
        legend += " " + LEGEND_INPUT
    drawn = line_plot(series, "layer", "dB")
    return (
        [drawn, *_paragraphs([legend])] if drawn else _paragraphs(["No layer has a loss that can be drawn."])
    )


def _table(report: Report) -> list[str]:
    """Quantized weights numbered as in the plot, then those stored as float16, then those kept float."""
    rows = []
    for number, line in enumerate((*report.quantized, *report.halved, *report.kept), 1):
        first, *inner, last = cells(line, report.drifting)
        place = str(number) if number <= len(report.quantized) else ""
        middle = "".join(f'<td class="cell">{escape(text)}</td>' for text in inner)
        rows.append(f"<tr><td>{place}</td><td>{escape(first)}</td>{middle}<td>{escape(last)}</td></tr>")
    return _rows(("", *columns(report)), rows)


def _rows(headings: Iterable[str], rows: Iterable[str]) -> list[str]:
    """A table; `rows` are HTML."""
    heads = "".join(f"<th>{escape(text)}</th>" for text in headings)
    return ["<table>", f"<thead><tr>{heads}</tr></thead>", "<tbody>", *rows, "</tbody>", "</table>"]
