"""What a file holds, as a person reads it in a terminal."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from comq_onnx.evaluate.contents import Contents, Offer, Port, Weight
from comq_onnx.evaluate.table import add
from comq_onnx.targets.target import CAST_SCALE, DEQUANTIZE, EIGHT_BIT, PLAIN, PLANES

ACTIVATIONS = "activations"
SHORT = {DEQUANTIZE: "DQ", CAST_SCALE: "cast", PLANES: "planes", EIGHT_BIT: "W8A8", PLAIN: "float"}
SAID = {
    "DQ": "codes in the file and in memory, a DequantizeLinear before the product",
    "cast": "codes in the file, floats in memory (Cast*scale): saves disk, not time",
    "planes": "as cast, in just the bits that codes have; a cast has 8, 4, or (ort, web) 2",
    "W8A8": "8-bit weights beside 8-bit activations",
    "float": "float weights on the grid, for a converter that rounds them itself",
}
EIGHT = "+a8"
EIGHT_SAID = "computes in 8 bits with --activations int8"
UNBOUNDED = 100_000
"""Columns that no table needs"""
MOST_OPS = 20
"""Types of operators that are listed, those with constants first"""


def print_contents(found: Contents, console: Console) -> None:
    """Print the interface, operators, weights and what targets would do with them, and totals."""
    for text in _head(found):
        _say(text, console)
    console.print(_ops(found))
    if len(found.ops) > MOST_OPS:
        _say(f"and {len(found.ops) - MOST_OPS} more types of operators, without large constants.", console)
    reasons: dict[str, int] = {}
    for table in _fitting(found, reasons, console):
        console.print(table)
    for text in _legend(found, reasons):
        _say(text, console)
    for text in _totals(found):
        _say(text, console)


def _say(text: str, console: Console) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _head(found: Contents) -> Iterator[str]:
    """What the model says of itself."""
    opsets = ", ".join(
        f"opset {version}" if domain == "ai.onnx" else f"{domain} {version}"
        for domain, version in found.opsets.items()
    )
    made = f", made by {found.producer}" if found.producer else ""
    yield f"{found.model}: {found.bytes:,} bytes, IR {found.ir_version}, {opsets}{made}"
    for name, ports in (("input", found.inputs), ("output", found.outputs)):
        for one in ports:
            yield f"{name:<9} {port_text(one)}"
    if found.functions:
        yield f"functions {found.functions} model-local"
    if found.metadata:
        yield f"metadata  {', '.join(found.metadata)}"


def port_text(one: Port) -> str:
    """``x float32 [batch, 3, ?]``"""
    if one.shape is None:
        return f"{one.name} {one.dtype}, shape not said"
    shape = ", ".join("?" if size is None else str(size) for size in one.shape)
    return f"{one.name} {one.dtype} [{shape}]"


def _ops(found: Contents) -> Table:
    table = _table("\noperator", "\nnodes", "\nbytes of constants")
    for line in found.ops[:MOST_OPS]:
        add(table, line.op, f"{line.nodes:,}", f"{line.bytes:,}" if line.bytes else "")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _fitting(found: Contents, reasons: dict[str, int], console: Console) -> list[Table]:
    """All targets beside each other, or a table for each where that is too wide."""
    targets = list(dict.fromkeys(name for line in found.weights for name in line.offers))
    whole = _weights(found, targets, reasons)
    wanted = Measurement.get(console, console.options.update_width(UNBOUNDED), whole).maximum
    if len(targets) < 2 or wanted <= console.width:
        return [whole]
    return [_weights(found, [target], reasons) for target in targets]


def _weights(found: Contents, targets: Sequence[str], reasons: dict[str, int]) -> Table:
    """A line for each weight and a column for each target; `reasons` is filled with numbers of footnotes."""
    table = _table("\nlayer", "\nop", "\nshape", "\nbytes", *(f"\n{name}" for name in targets or [""]))
    for line in found.weights:
        shape = "x".join(map(str, line.shape)) or "?"
        if line.reason:
            cells = [_footnote(line.reason, reasons)]
        else:
            cells = [cell(line.offers.get(name, {}), reasons) for name in targets]
        add(table, line.layer, line.op, shape, f"{line.bytes:,}", *cells)
    return table


def cell(offers: Mapping[str, Offer], reasons: dict[str, int]) -> str:
    """Widths by form: ``8 cast, 4 3 2 DQ``, those that come out as another ``4=8``; ``no [1]`` where none.

    `reasons` gets a number for each reason that is not in it.
    """
    groups: dict[str, list[str]] = {}
    for width, offer in offers.items():
        if width != ACTIVATIONS:
            mark = f" {_footnote(offer.why, reasons)}" if offer.why else ""
            form = SHORT.get(offer.form, offer.form) if offer.form else "no"
            groups.setdefault(form + mark, []).append(_width(width, offer))
    if len(groups) == 1 and next(iter(groups)).startswith("no"):
        told = next(iter(groups))
    else:
        told = ", ".join(f"{' '.join(widths)} {form}" for form, widths in groups.items())
    eight = offers.get(ACTIVATIONS)
    return f"{told} {EIGHT}" if eight and eight.form else told


def _width(width: str, offer: Offer) -> str:
    asked, given = width.removeprefix("int"), offer.grid.split(" ")[0].removeprefix("int")
    return asked if given in ("", asked) else f"{asked}={given}"


def _footnote(reason: str, reasons: dict[str, int]) -> str:
    return f"[{reasons.setdefault(reason, len(reasons) + 1)}]"


def _legend(found: Contents, reasons: Mapping[str, int]) -> Iterator[str]:
    """What the columns' short words mean, of those that are used."""
    offers = [o for line in found.weights for widths in line.offers.values() for o in widths.items()]
    forms = dict.fromkeys(SHORT.get(o.form, o.form) for name, o in offers if name != ACTIVATIONS and o.form)
    if offers:
        yield "\nColumns: widths of weights in bits, and how they would be stored, given calibration data."
    for form in forms:
        yield f"  {form}: {SAID.get(form, form)}"
    if any(name == ACTIVATIONS and o.form for name, o in offers):
        yield f"  {EIGHT}: {EIGHT_SAID}"
    if any("=" in _width(name, o) for name, o in offers if name != ACTIVATIONS):
        yield "  4=8: int4 asked, int8 given"
    if any(line.op == "Gather" and line.offers for line in found.weights):
        yield "  Gather: codes in memory too; int8 with --quantize-embeddings, other widths by a --rule."
    for reason, number in reasons.items():
        yield f"  [{number}] {reason}"


def _totals(found: Contents) -> Iterator[str]:
    """Bytes of weights that something can quantize, and of those that nothing can, by reason."""
    able = [line for line in found.weights if not line.reason]
    count = "1 weight" if len(able) == 1 else f"{len(able)} weights"
    yield f"\n{count} can be quantized: {_bytes(able)}, {_share(able, found)}."
    unable = [line for line in found.weights if line.reason]
    for reason, count in Counter(line.reason for line in unable).most_common():
        lines = [line for line in unable if line.reason == reason]
        yield f"{count} cannot ({reason}): {_bytes(lines)}, {_share(lines, found)}."
    yield "Why a layer's activations stay float, grids and details: --json."


def _bytes(lines: Sequence[Weight]) -> str:
    return f"{sum(line.bytes for line in lines):,} bytes"


def _share(lines: Sequence[Weight], found: Contents) -> str:
    share = sum(line.bytes for line in lines) / max(found.bytes, 1)
    return f"{100 * share:.0f} % of the file" if math.isfinite(share) else ""
