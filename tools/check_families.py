"""Architectures as torch exports them, small and with random weights, through the whole program.

Each is exported by the TorchScript exporter at one of the opsets 11 to 17 or by the dynamo exporter at one of
18 to 23, in turn, so that all opsets come up several times (``--exporter`` chooses one, or both; where one of
them cannot export a family, the other does). Weights become 8-bit on 16 samples (where those do not do, on
128), and the file is held against the float model on 8 others. `breadth/family.py` says how weights and
samples are chosen so that outputs depend on the input: "spread" is how much they do, the share of an output's
size that differs between samples.

torch, torchvision, timm and transformers are needed; whatever is not installed is left out and named.

    python tools/check_families.py
    python tools/check_families.py --only 'BERT|Swin' --exporter dynamo
"""

import argparse
import itertools
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from breadth import language, plain, vision
from breadth.exporting import export, fed
from breadth.family import Family, Network, enliven
from breadth.outcome import LIMIT, Outcome, answers, one_line, try_model
from breadth.texts import texts
from check_backend import table

from comq_onnx import Recipe
from comq_onnx.run.plain import plain_array
from comq_onnx.run.widen import widen

FAMILIES = (*plain.FAMILIES, *language.FAMILIES, *vision.FAMILIES)
RECIPE = Recipe(weights="int8", quantize_embeddings=True, target="ort", effort="fast", threads=1)
TEXT = "ONNX text"
OPSETS = {"script": range(11, 18), "dynamo": range(18, 24)}
FALLBACK = {"script": 17, "dynamo": 18}
GIVEN, SHOWN, MORE = range(16), range(100, 108), range(200, 328)


@dataclass(frozen=True)
class Row:
    """One export of one family."""

    family: str
    source: str
    exporter: str
    opset: int
    nodes: int
    kind: str
    why: str = ""
    error: float = 0.0
    """Largest relative distance of an output from the float model's"""
    spread: float = 0.0
    """Smallest share of an output that differs between samples"""
    layers: int = 0
    """Weights that were quantized"""
    weights: int = 0
    """All that were found"""
    share: float = 0.0
    """Of their bytes, those that were quantized"""
    kept: str = ""
    """Why the others stay float"""
    ratio: float = 0.0
    """Bytes of the file over those of the float file"""
    seconds: float = 0.0


def try_family(family: Family, place: int, exporters: Iterable[str]) -> Iterator[Row]:
    """A row for each of `exporters`, or for the one whose turn it is at `place`, the family's number."""
    try:
        network = family.make()
        enliven(network)
    except ImportError as error:
        yield Row(family.name, family.source, "", 0, 0, "left out", one_line(error))
        return
    turn = place % len(family.exporters)
    for exporter in (*family.exporters[turn:], *family.exporters[:turn]):
        if exporters and exporter not in exporters:
            continue
        opsets = OPSETS[exporter]
        row = _try_export(family, network, exporter, opsets[place // 2 % len(opsets)])
        yield row
        if not exporters and row.kind != "not exported":
            return


def try_texts() -> Iterator[Row]:
    """A row for each graph that is written by hand."""
    for text in texts():
        started = time.monotonic()
        module = Network(None, text.sample)
        outcome = try_model(text.model, fed(module, GIVEN), fed(module, SHOWN), (RECIPE, LIMIT))
        spread = spread_of(text.model, module) if outcome.report else 0.0
        family = Family(text.name, "here", lambda known=module: known)
        yield _row(family, TEXT, text.model, outcome, (spread, time.monotonic() - started, ""))


def _try_export(family: Family, network: Network, exporter: str, opset: int) -> Row:
    started, note = time.monotonic(), ""
    for version in dict.fromkeys((opset, FALLBACK[exporter])):
        try:
            model = export(network, exporter, version)
        except Exception as error:  # noqa: BLE001 - exporters raise anything
            note += f"torch does not export it at opset {version}: {one_line(error)[:150]} "
            continue
        outcome = try_model(model, fed(network, GIVEN), fed(network, SHOWN), (RECIPE, LIMIT))
        if outcome.report and outcome.error > LIMIT:
            outcome = _explained(outcome, model, network)
        spread = spread_of(model, network) if outcome.report else 0.0
        return _row(family, exporter, model, outcome, (spread, time.monotonic() - started, note))
    return Row(family.name, family.source, exporter, opset, 0, "not exported", note)


def _explained(outcome: Outcome, model: onnx.ModelProto, network: Network) -> Outcome:
    """What becomes of a file that is too far from the float model on more samples, and by plain rounding.

    Where that is further away still, the network amplifies any noise, and it is no defect.
    """
    shown = fed(network, SHOWN)
    again = try_model(model, fed(network, MORE), shown, (replace(RECIPE, effort="normal"), LIMIT))
    if again.kind == "quantized":
        return replace(again, why=f"on {len(MORE)} samples; on {len(GIVEN)}: {100 * outcome.error:.2g} %")
    rounded = try_model(model, fed(network, GIVEN), shown, (replace(RECIPE, solver="rtn"), math.inf))
    if again.report is None or rounded.kind != "quantized" or rounded.error <= again.error:
        return outcome
    why = f"any noise grows in it: rounding its weights to nearest differs by {100 * rounded.error:.2g} %"
    return replace(again, kind="amplified", why=why)


def spread_of(model: onnx.ModelProto, network: Network) -> float:
    """How much of an output depends on the sample: ``||y - mean(y)|| / ||y||``, the least of all outputs."""
    found = []
    wide = widen(model) if network.half == "bfloat16" else model
    for many in zip(*answers(wide.SerializeToString(), fed(network, SHOWN)), strict=True):
        arrays = [plain_array(one) for one in many]
        if arrays[0].dtype.kind != "f":
            continue
        stacked = np.stack([array.astype(np.float64).reshape(-1) for array in arrays])
        size = float(np.linalg.norm(stacked))
        found.append(float(np.linalg.norm(stacked - stacked.mean(axis=0))) / size if size else 0.0)
    return min(found, default=0.0)


def _row(
    family: Family, exporter: str, model: onnx.ModelProto, outcome: Outcome, told: tuple[float, float, str]
) -> Row:
    spread, seconds, note = told
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    begun = (family.name, family.source, exporter, opset, len(model.graph.node), outcome.kind)
    report = outcome.report
    if report is None:
        return Row(*begun, note + outcome.why, outcome.error, seconds=seconds)
    all_bytes = sum(line.bytes_before for line in report.lines)
    kept = Counter(f"{line.op}: {line.reason}" for line in report.kept)
    return Row(
        *begun,
        note + outcome.why,
        outcome.error,
        spread,
        len(report.quantized),
        len(report.lines),
        sum(line.bytes_before for line in report.quantized) / all_bytes,
        "; ".join(f"{count} {why}" for why, count in kept.most_common()),
        report.bytes_after / report.bytes_before,
        seconds,
    )


def rows_table(rows: Iterable[Row]) -> str:
    """One line for each export."""
    head = ("family", "from", "exporter, opset", "nodes", "weights quantized", "of their bytes %",
            "file size", "error %", "spread %", "outcome")  # fmt: skip
    lines = [
        (
            row.family,
            row.source,
            f"{row.exporter} {row.opset}",
            str(row.nodes),
            f"{row.layers} of {row.weights}",
            f"{100 * row.share:.1f}",
            f"{row.ratio:.2f}x",
            f"{100 * row.error:.2f}",
            f"{100 * row.spread:.0f}",
            row.kind,
        )
        for row in rows
    ]
    return table(head, lines)


def reasons_table(rows: Iterable[Row]) -> str:
    """What stayed float and why, and what was remarked."""
    lines = [
        (row.family, f"{row.exporter} {row.opset}", " ".join(filter(None, (row.kept, row.why))))
        for row in rows
        if row.kept or row.why
    ]
    return table(("family", "exporter, opset", "what stays float, and remarks"), lines)


def summary(rows: list[Row]) -> str:
    """Counts in a sentence each."""
    kinds, done = Counter(row.kind for row in rows), [row for row in rows if row.kind == "quantized"]
    names = {row.family for row in done}
    bad = {row.family for row in rows if row.kind in ("defect", "refused", "float fails", "nothing")}
    opsets = Counter(row.opset for row in done)
    return "\n".join(
        (
            f"{len(rows)} exports: "
            + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            + ".",
            f"{len(names)} families quantized, {len(names - bad)} of them in every export.",
            "By opset: " + ", ".join(f"{opset}: {count}" for opset, count in sorted(opsets.items())) + ".",
            f"Largest error {100 * max((row.error for row in done), default=0):.2f} %, "
            f"smallest spread {100 * min((row.spread for row in done), default=0):.0f} %.",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="a regular expression that is found in the names of families"
    )
    parser.add_argument(
        "--exporter", choices=OPSETS, action="append", help="may be repeated; in turn, where it is not given"
    )
    parser.add_argument("--rows", type=Path, help="keep rows here, a JSON object a line, and go on from them")
    args = parser.parse_args()
    if not find_spec("torch"):
        print("torch is not installed, and it exports the models", file=sys.stderr)
        return 2
    import torch

    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # the TorchScript exporter has no form for it
    kept = args.rows.read_text().splitlines() if args.rows and args.rows.exists() else []
    rows = [Row(**json.loads(line)) for line in kept]
    done = {row.family for row in rows}
    chosen = [f for f in enumerate(FAMILIES) if f[1].name not in done and re.search(args.only, f[1].name)]
    found = [try_family(family, place, args.exporter or ()) for place, family in chosen]
    if not args.only and not {row.family for row in rows if row.exporter == TEXT}:
        found.append(try_texts())
    for row in itertools.chain(*found):
        rows.append(row)
        print(f"{row.family} {row.exporter} {row.opset}: {row.kind} error {row.error:.3g} spread "
              f"{row.spread:.2g} {row.seconds:.0f} s {row.why}", file=sys.stderr, flush=True)  # fmt: skip
        if args.rows:
            with args.rows.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    places = {family.name: place for place, family in enumerate(FAMILIES)}
    rows.sort(key=lambda row: places.get(row.family, len(places)))
    print(f"{summary(rows)}\n\n{rows_table(rows)}\n\n{reasons_table(rows)}")
    return int(any(row.kind in ("defect", "refused", "float fails", "nothing") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
