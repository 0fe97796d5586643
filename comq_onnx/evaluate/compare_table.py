"""A comparison as a person reads it in a terminal."""

import math
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.table import Table

from comq_onnx.evaluate.closeness import Closeness
from comq_onnx.evaluate.comparison import Comparison, Latency, Setting
from comq_onnx.evaluate.parting import Parting, Tensor
from comq_onnx.evaluate.table import add, decibel

MADE_UP = "These are made-up inputs: the numbers say little about real ones. Give --data."
SAID = {"exact": "exact", "deployed": "as deployed"}
"""Settings as people read them"""
BOTH = "both"
"""Where a line is the same at either"""
WORST = "(#k: ...) is the worst sample, counted from 0."


def _precise(value: float) -> str:
    return f"{value:.3g}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


MEASURES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "sqnr_db": ("SQNR dB", decibel),
    "cosine": ("cosine", lambda value: f"{value:.5f}"),
    "largest": ("largest error", _precise),
    "equal": ("equal entries", _share),
    "top1": ("top-1", _share),
    "kl": ("KL", _precise),
}
"""Headings, and how values are written, by field of `Closeness`"""


def print_comparison(found: Comparison, console: Console) -> None:
    """Print the models, the outputs, a score, the speed, and where the graphs part."""
    console.print(_models(found))
    data = f"{found.data}. {MADE_UP}" if found.synthetic else f"Compared on {found.data}."
    _say(f"\nB has {found.size_ratio:.2f}x the bytes of A. {data}", console)
    console.print(_outputs(found.settings))
    for text in (*_remarks(found.settings), *_scores(found), *_speed(found)):
        _say(text, console)
    if found.parting is not None:
        _print_parting(found.parting, console)
    for note in found.notes:
        _say(f"note: {note}.", console)
    for note in found.data_notes:
        _say(f"note: {note}", console)


def _say(text: str, console: Console) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _models(found: Comparison) -> Table:
    table = _table("", "model", "bytes", "opset", "IR", "nodes")
    for label, facts in (("A", found.a), ("B", found.b)):
        counts = (f"{facts.bytes:,}", str(facts.opset), str(facts.ir_version), f"{facts.nodes:,}")
        add(table, label, facts.name, *counts)
    return table


def _outputs(settings: Mapping[str, Setting]) -> Table:
    """A line for each output and setting, and a column for each measure that some output has."""
    rows = list(_rows(settings))
    used = [name for name in MEASURES if any(getattr(line, name) is not None for _, line in rows)]
    table = _table("\noutput", "\nsettings", *(f"\n{MEASURES[name][0]}" for name in used))
    for setting, line in rows:
        add(table, line.output, setting, *(_cell(line, name) for name in used))
    return table


def _rows(settings: Mapping[str, Setting]) -> Iterator[tuple[str, Closeness]]:
    for exact, deployed in zip(settings["exact"].outputs, settings["deployed"].outputs, strict=True):
        if exact == deployed:
            yield BOTH, exact
        else:
            yield SAID["exact"], exact
            yield SAID["deployed"], deployed


def _cell(line: Closeness, name: str) -> str:
    value, worst, write = getattr(line, name), line.worst.get(name), MEASURES[name][1]
    if value is None:
        return "-"
    told = worst is not None and not line.identical and worst.value != value
    return write(value) + (f" (#{worst.sample}: {write(worst.value)})" if worst and told else "")


def _remarks(settings: Mapping[str, Setting]) -> Iterator[str]:
    """What the numbers do not say, or what they stand for."""
    rows = list(_rows(settings))
    if any(len(line.worst) and not line.identical for _, line in rows):
        yield WORST
    for kind in dict.fromkeys(line.classes for _, line in rows if line.classes):
        names = ", ".join(dict.fromkeys(f"'{line.output}'" for _, line in rows if line.classes == kind))
        yield f"Read as {kind}, for top-1 and KL (in nats): {names}; --classes says otherwise."
    for setting, line in rows:
        if line.identical:
            yield f"'{line.output}' is equal to the last bit (settings: {setting})."
        if line.note:
            yield f"'{line.output}': {line.note} (settings: {setting})."


def _scores(found: Comparison) -> Iterator[str]:
    for name, setting in found.settings.items():
        if setting.scores is not None:
            a, b = setting.scores
            yield f"{found.metric}, {SAID[name]}: A {a:.6g}, B {b:.6g} ({b - a:+.3g})."


def _speed(found: Comparison) -> Iterator[str]:
    for name, setting in found.settings.items():
        if setting.latency is not None:
            yield f"One batch in onnxruntime, {SAID[name]}: {_latency(setting.latency)}"


def _latency(found: Latency) -> str:
    times = f"A {milliseconds(found.a_seconds)}, B {milliseconds(found.b_seconds)}"
    spread = f"half of {found.turns} turns within {found.ratio_low:.2f} to {found.ratio_high:.2f}"
    return f"{times}, B/A {found.ratio:.2f} ({spread})."


def milliseconds(seconds: float) -> str:
    """To three digits."""
    value = 1e3 * seconds
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 1e-3))))}f} ms"


def _print_parting(found: Parting, console: Console) -> None:
    for text in ("", *_parting(found)):
        _say(text, console)
    if alone := sum(line.own_db is None for line in found.compared):
        _say(f"{alone} of the tensors' nodes do not run by themselves, and are left out below.", console)
    if not found.losses:
        return
    _say("What B's nodes lose by themselves, fed with A's values, the worst first:", console)
    table = _table("tensor", "dB alone", "dB in all", "layers")
    for line in found.losses:
        layers = ", ".join(line.layers) or f"none with weights: {line.op}"
        alone = "-" if line.own_db is None else decibel(line.own_db)
        add(table, line.name, alone, decibel(line.sqnr_db), layers)
    console.print(table)


def _parting(found: Parting) -> Iterator[str]:
    """What was compared, and the first tensor that lies too far apart."""
    extent = f"{len(found.compared)} floating tensors that bear one name in both graphs"
    yield f"Layers: {extent} (A computes {found.tensors}), on {found.samples} batches, unoptimised."
    if not found.compared:
        yield "Where they part cannot be told: no tensor of A is in B under its name."
        return
    if found.unmatched or found.reshaped:
        shapes = f"; {len(found.reshaped)} have another shape" if found.reshaped else ""
        yield f"B has no tensor of the name for {found.unmatched} of A's{shapes}: what is there is not seen."
    if found.first_unequal is None:
        yield "All of these are equal to the last bit."
        return
    if found.first is None:
        lowest = min(found.compared, key=lambda line: line.sqnr_db)
        yield f"None is below {found.threshold_db:g} dB; the lowest is {_tensor(lowest)}."
        return
    yield f"First below {found.threshold_db:g} dB: {_tensor(found.first)}."
    rest = f"{found.below} of {len(found.compared)} are below"
    yield f"{rest}; closeness may rise again, so what comes behind the first need not be its fault."


def _tensor(line: Tensor) -> str:
    before = f", made of '{line.made_of}' at {decibel(line.made_of_db)} dB" if line.made_of else ""
    layers = f" through {', '.join(line.layers)}" if line.layers else ""
    return f"'{line.name}' ({line.op}) at {decibel(line.sqnr_db)} dB{before}{layers}"
