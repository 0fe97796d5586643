"""The report as a person reads it in a terminal."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from comq_onnx.evaluate.estimate import Estimate
from comq_onnx.evaluate.prices import told
from comq_onnx.evaluate.report import BYTES, Report, sqnr
from comq_onnx.evaluate.verify import Fidelity
from comq_onnx.grid import Grid
from comq_onnx.records import Layer, LayerReport, Skipped
from comq_onnx.targets.target import HALVED

INPUT_DB = "input dB"
COLOURS = {"ok": "green", "FAIL": "bold red", "note:": "yellow"}
"""Of lines that begin so, on a terminal; `NO_COLOR` in the environment turns them off"""


def print_report(report: Report, console: Console) -> None:
    """Print a line for each weight, then totals, checks and what the user must be told."""
    console.print(layer_table(report))
    for text in summary(report):
        style = COLOURS.get(text.split(" ")[0])
        console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)


def layer_table(report: Report) -> Table:
    """Quantized layers in graph order; below them float16 weights and float ones, one line each."""
    table = Table(*columns(report), box=None, pad_edge=False, header_style="bold")
    for line in (*report.quantized, *report.halved, *report.kept):
        add(table, *cells(line, report.drifting))
    return table


def columns(report: Report) -> tuple[str, ...]:
    """Headings; how far inputs have drifted only where layers were solved on drifted ones."""
    drift = (INPUT_DB,) if report.drifting else ()
    return "layer", "op", "shape", "grid", "SQNR dB", *drift, "bytes", "note"


def add(table: Table, *texts: str) -> None:
    """A row of plain text: what looks like markup in a node's name is part of the name."""
    table.add_row(*map(Text, texts))


def cells(line: LayerReport, drifting: bool) -> tuple[str, ...]:
    """A line under `columns`."""
    shape = "x".join(map(str, line.shape))
    drift = (decibel(input_decibel(line)) if line.form else "",) if drifting else ()
    if not line.form:
        kept = f"kept: {line.reason}"
        return line.name, line.op, shape, "float", "", *drift, f"{line.bytes_before:,}", kept
    gain = f"{decibel(line.sqnr_before)} -> {decibel(line.sqnr_after)}"
    if line.form == HALVED:
        gain = ""
    size = f"{line.bytes_before:,} -> {line.bytes_after:,}"
    if line.bias_bytes:
        size += f" + {line.bias_bytes:,} bias"
    said = "; ".join(filter(None, (line.activations, line.choice, line.reason)))
    return line.name, line.op, shape, line.grid, gain, *drift, size, said


def input_decibel(line: LayerReport) -> float | None:
    """How close the input is to the float network's, in dB; infinity where both are the same."""
    return None if line.drift is None else sqnr(1.0, line.drift)


def decibel(value: float | None) -> str:
    if value is None:
        return "-"
    return "inf" if math.isinf(value) else f"{value:.1f}"


def summary(report: Report) -> list[str]:
    """Totals, files, checks and remarks, a sentence each."""
    lines = ["", *totals(report)]
    if report.allocation is not None:
        lines += [*told(report.allocation), *(f"note: {note}" for note in report.allocation.notes)]
    for check in report.verification.checks:
        lines.append(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
    lines += [f"     output {line.output}: {closeness(line)}" for line in report.verification.fidelity]
    lines += [f"note: {note}" for note in report.notes]
    lines.append("Written: " + ", ".join(report.files))
    return lines


def totals(report: Report) -> list[str]:
    """What became of the model as a whole, a sentence each."""
    share = report.bytes_after / report.bytes_before
    others = f"{as_float16(report.halved)}{len(report.kept)} kept float{kept_reasons(report)}"
    lines = [
        f"{len(report.quantized)} weights quantized, {others}; "
        f"{report.bytes_before:,} -> {report.bytes_after:,} bytes ({share:.2f}x); {report.seconds:.1f} s.",
        *by_grid([*report.quantized, *report.halved]),
        f"Calibrated on {report.calibration}.",
    ]
    if report.opset_after != report.opset_before:
        lines.append(
            f"Opset raised from {report.opset_before} to {report.opset_after}: the codes' types need it."
        )
    return lines


def by_grid(lines: Sequence[LayerReport]) -> list[str]:
    """How many layers and bytes of weights each grid has, most bytes first; nothing for one grid."""
    layers, sizes = Counter[str](), Counter[str]()
    for line in lines:
        layers[line.grid] += 1
        sizes[line.grid] += line.bytes_after
    if len(layers) < 2:
        return []
    parts = (f"{grid} in {layers[grid]} ({size:,} bytes)" for grid, size in sizes.most_common())
    return [f"Weights by grid: {', '.join(parts)}."]


def closeness(fidelity: Fidelity) -> str:
    """How an output compares with the float model's on the first calibration batches."""
    if fidelity.sqnr_db is not None:
        return f"{decibel(fidelity.sqnr_db)} dB against the float model on calibration samples"
    if fidelity.agreement is not None:
        return f"{fidelity.agreement:.1%} of entries equal those of the float model on calibration samples"
    return "its shape differs from the float model's"


def as_float16(weights: Sequence[object]) -> str:
    """How many weights are stored so, as a part of a list; empty where none is."""
    return f"{len(weights)} stored as float16, " if weights else ""


def kept_reasons(report: Report) -> str:
    reasons = Counter(line.reason for line in report.kept)
    return (
        f" ({'; '.join(f'{count} {reason}' for reason, count in reasons.most_common())})" if reasons else ""
    )


def print_plan(
    layers: Sequence[Layer],
    skipped: Sequence[Skipped],
    grids: Mapping[str, Grid],
    notes: Mapping[str, str],
    console: Console,
    halved: Sequence[Layer] = (),
) -> None:
    """What would be quantized, on which grid, what would be float16, and what would stay float and why."""
    table = Table(
        "layer", "op", "shape", "grid", "bytes", "note", box=None, pad_edge=False, header_style="bold"
    )
    before = after = 0
    for layer in layers:
        size = math.prod(layer.layout.shape)
        grid, width = grids[layer.name], BYTES[layer.dtype]
        scales = layer.layout.groups * grid.blocks(layer.layout.rows) * layer.layout.cols
        least = -(-size * grid.bits // 8) + scales * width
        before, after = before + size * width, after + least
        shape = "x".join(map(str, layer.layout.shape))
        sizes, note = f"{size * width:,} -> {least:,}", notes.get(layer.name, "")
        add(table, layer.name, layer.op, shape, str(grid), sizes, note)
    for layer in halved:
        size = math.prod(layer.layout.shape)
        shape, sizes = (
            "x".join(map(str, layer.layout.shape)),
            f"{size * BYTES[layer.dtype]:,} -> {size * 2:,}",
        )
        add(table, layer.name, layer.op, shape, HALVED, sizes, "")
    for line in skipped:
        shape = "x".join(map(str, line.shape))
        add(table, line.name, line.op, shape, "float", f"{line.bytes:,}", f"kept: {line.reason}")
    console.print(table)
    console.print(
        f"\n{len(layers)} weights would be quantized ({before:,} -> about {after:,} bytes), "
        f"{as_float16(halved)}{len(skipped)} kept float. Nothing was run or written.",
        highlight=False,
        soft_wrap=True,
    )


def print_estimate(estimate: Estimate, seconds: Mapping[str, float] | None, console: Console) -> None:
    """What a run would take, a sentence each; `seconds` by kind of work, None where time is not estimated."""
    for text in estimate_lines(estimate, seconds):
        console.print(text, highlight=False, soft_wrap=True, markup=False)


def estimate_lines(estimate: Estimate, seconds: Mapping[str, float] | None) -> list[str]:
    """See `print_estimate`."""
    times = "twice behind the first quantized layer" if estimate.inputs == "quantized" else "each once a pass"
    disk = f"{binary(estimate.disk)} of it on disk" if estimate.disk else "nothing on disk"
    lines = [
        f"Layers would be solved on the {estimate.inputs} network's inputs: {estimate.node_runs:,} node "
        f"executions in {estimate.batches:,} batches ({times}).",
        f"Memory beside the model: about {binary(estimate.statistics)} for statistics and "
        f"{binary(estimate.activations)} for activations, {disk} "
        f"(limit {binary(estimate.limit)}; --memory sets it).",
    ]
    if estimate.peak:
        lines.append(
            f"Weights stay in their files: the process would hold about {binary(estimate.peak)} at most, "
            "what is mapped from files counted."
        )
    if seconds is None:
        lines.append("Time is not estimated on a GPU.")
    else:
        kinds = ", ".join(f"{kind} {duration(spent)}" for kind, spent in seconds.items())
        lines.append(
            f"Time: about {duration(sum(seconds.values()))} ({kinds}), where nothing else runs, "
            "give or take a factor of two."
        )
    if estimate.unknown:
        lines.append(
            f"unknown shapes: {len(estimate.unknown)} tensors, '{estimate.unknown[0]}' the first. They count "
            "as nothing, so memory and time are more."
        )
    return lines


def binary(size: float) -> str:
    """Bytes in the largest unit that leaves one before the point."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
