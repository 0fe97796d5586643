"""The report as a page of its own: one HTML file without scripts, which loads nothing.

A loss that jumps up and down from layer to layer, rather than growing slowly, is what MRECG (arXiv
2303.11906) calls oscillation and ties to lost accuracy: the page draws it.
"""

from html import escape
from importlib.resources import files
from pathlib import Path

from comq_onnx.config import as_toml
from comq_onnx.evaluate.charts import depth_chart, layers_chart, spread_chart
from comq_onnx.evaluate.markup import bullets, code, figure, folded, paragraphs, table
from comq_onnx.evaluate.page_budget import dual_prices, size_against_fidelity
from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.spread import Spread
from comq_onnx.evaluate.svg import charts_missing
from comq_onnx.evaluate.table import cells, closeness, columns, totals
from comq_onnx.evaluate.tiles import kept_by_reason, tiles
from comq_onnx.recipe import Recipe

# Nothing may be loaded, even if a name of a node were to find a way to ask for it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
LAYERS = (
    "Each quantized layer in graph order, numbered as in the table. Above, the signal over the error of its "
    "output on its calibration inputs, by round-to-nearest and as solved: higher is better, and 10 dB more "
    "are a tenth of the error. Below, the bytes of its weight."
)
DEPTH = (
    "The squared error of each layer's output over its signal; lower is better. Growing slowly is normal; a "
    "line that jumps up and down from layer to layer often goes with lost accuracy."
)
DRIFT = (
    " The error of its input is how far what the quantized layers before it feed it is from what the float "
    "network feeds it; there is no point where both are the same."
)
SPREADS = (
    "The layers of the lowest SQNR, worst first. Left, the float weights in steps of their own scale (blue) "
    "and how often each code is used: weights between two codes are moved to one of them, those beyond the "
    "last are clipped to it. Right, how the layer's scales are spread, on a logarithmic axis."
)
NO_CHART = "No layer has a loss that can be drawn."


def page(report: Report) -> str:
    """The whole report as an HTML document; charts are left out, and it says so, where none can be drawn."""
    title = f"{Path(report.files[0]).name}: {len(report.quantized)} weights quantized"
    sections = {
        "Summary": summary(report),
        "Layers": per_layer(report),
        "Loss along depth": along_depth(report),
        "Weights and scales of the worst layers": spreads(report.spreads),
        "Size against fidelity": size_against_fidelity(report.allocation),
        "Dual prices": dual_prices(report.allocation),
        "Kept float": kept_float(report),
        "Activations in 8 bits": activations(report),
        "Checks": checks(report),
        "All weights": all_weights(report),
        "To make it again": recipe(report),
        "Versions": versions(report),
    }
    shown = {name: parts for name, parts in sections.items() if parts}
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in shown)
    made = (
        f"Made by comq-onnx {report.version}. Files: {', '.join(Path(file).name for file in report.files)}."
    )
    body = [f"<h1>{escape(title)}</h1>", *paragraphs([made], "soft"), f"<nav>{links}</nav>"]
    for name, parts in shown.items():
        body += [f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>', *parts, "</section>"]
    style = files("comq_onnx.evaluate").joinpath("page.css").read_text(encoding="utf-8")
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{style}</style>",
    ]
    return "\n".join(
        ["<!DOCTYPE html>", '<html lang="en"><head>', *head, "</head><body>", *body, "</body></html>", ""]
    )


def _anchor(name: str) -> str:
    return "to-" + name.lower().replace(" ", "-")


def summary(report: Report) -> list[str]:
    """What came of it at a glance, then in sentences."""
    boxes = [
        f"<div><dt>{escape(one.name)}</dt><dd><strong>{escape(one.value)}</strong>{escape(one.more)}</dd></div>"
        for one in tiles(report)
    ]
    missing = charts_missing()
    notes = ["<h3>Notes</h3>", *bullets(map(escape, report.notes))] if report.notes else []
    return [
        "<dl>",
        *boxes,
        "</dl>",
        *paragraphs(totals(report)[1:]),
        *paragraphs([missing + "."] if missing else []),
        *notes,
    ]


def per_layer(report: Report) -> list[str]:
    if charts_missing():
        return []
    drawn = layers_chart(report.quantized)
    return figure(drawn, LAYERS) if drawn else paragraphs([NO_CHART])


def along_depth(report: Report) -> list[str]:
    drawn = "" if charts_missing() else depth_chart(report.quantized)
    return figure(drawn, DEPTH + (DRIFT if report.drifting else "")) if drawn else []


def spreads(found: tuple[Spread, ...]) -> list[str]:
    """Two charts side by side where the page has room."""
    if not found or charts_missing():
        return []
    drawn = []
    for number, spread in enumerate(found):
        said = (
            f"{spread.layer}: {spread.scale_count:,} scales; {spread.beyond:.2%} of the weights are clipped."
        )
        drawn += figure(spread_chart(number, spread), said, wide=False)
    return [*paragraphs([SPREADS], "soft"), '<div class="pair">', *drawn, "</div>"]


def kept_float(report: Report) -> list[str]:
    """What was not quantized, by reason, most bytes first."""
    if not report.kept:
        return []
    rows = [
        (
            reason,
            f"{len(lines)}",
            f"{sum(line.bytes_before for line in lines):,}",
            ", ".join(line.name for line in lines),
        )
        for reason, lines in kept_by_reason(report)
    ]
    return table("kept", ("reason", "weights", "bytes", "read by"), rows, (0, 3))


def activations(report: Report) -> list[str]:
    """The grid of each tensor that is stored in 8 bits, and what its lowest and highest code stand for."""
    rows = []
    for tensor, grid in report.activations.items():
        low, high = (-128, 127) if grid.kind.signed else (0, 255)
        ends = (f"{grid.scale * (code - grid.zero_point):.4g}" for code in (low, high))
        kind = "int8" if grid.kind.signed else "uint8"
        rows.append((tensor, kind, f"{grid.scale:.4g}", f"{grid.zero_point}", *ends))
    headings = ("tensor", "codes", "scale", "zero point", "from", "to")
    return table("activations", headings, rows) if rows else []


def checks(report: Report) -> list[str]:
    """What was found about the bytes on disk, and how close each output is."""
    told = []
    for check in report.verification.checks:
        said = '<span class="ok">ok</span>' if check.ok else '<span class="fail">FAIL</span>'
        told.append(f"{said} {escape(check.name)}: {escape(check.detail)}")
    outputs = [escape(f"output {line.output}: {closeness(line)}") for line in report.verification.fidelity]
    return bullets([*told, *outputs])


def all_weights(report: Report) -> list[str]:
    """Quantized weights numbered as in the charts, then those stored as float16, then those kept float."""
    rows = []
    for number, line in enumerate((*report.quantized, *report.halved, *report.kept), 1):
        place = str(number) if number <= len(report.quantized) else ""
        rows.append((place, *cells(line, report.drifting)))
    headings = ("", *columns(report))
    return table("layers", headings, rows, (len(headings) - 1,))


def recipe(report: Report) -> list[str]:
    """The command line, and the same as a file for ``--config``."""
    command = [*paragraphs(["As a command; file names are without their folders:"]), code(report.command)]
    saved = as_toml(Recipe(**report.recipe))
    by_hand = report.allocation.rules if report.allocation else ()
    return [
        *(command if report.command else []),
        *paragraphs(["As a recipe, for --config recipe.toml:"]),
        code(saved),
        *(
            folded("The budget's choice by hand, as --rule flags", [code("\n".join(by_hand))])
            if by_hand
            else []
        ),
    ]


def versions(report: Report) -> list[str]:
    return table("versions", ("what", "version"), list(report.versions.items())) if report.versions else []
