"""Read real models into a graph and write them back, as they are and prepared, and compare with the file.

For every model: metadata, opset domains and doc strings, inputs and outputs with their types and dynamic
axes, names of nodes, and the outputs in onnxruntime. "As it is" must give the same outputs to the last bit
(nothing but the container changed); "prepared" (opset raised, constants and BatchNorm folded) to 1e-4 of
their norm, and may rename or drop nodes but no input, output, axis or metadata.

    python tools/check_roundtrip.py --cache build/zoo
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from zoo.catalogue import ZOO
from zoo.guests import GUESTS
from zoo.model import Feed, Places, UnavailableError
from zoo.runner import open_file

from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare

TOLERANCE = 1e-4
FEEDS = 3


def signature(values: list[onnx.ValueInfoProto]) -> list[tuple[str, bytes, str]]:
    """Names, serialized types with their dynamic axes, and doc strings, in order."""
    return [
        (value.name, value.type.SerializeToString(deterministic=True), value.doc_string) for value in values
    ]


def metadata(proto: onnx.ModelProto) -> tuple[object, ...]:
    """What belongs to the file and not to its graph's arithmetic."""
    entries = sorted((entry.key, entry.value) for entry in proto.metadata_props)
    said = (proto.producer_name, proto.producer_version, proto.domain, proto.model_version, proto.doc_string)
    return (entries, said, proto.graph.name, proto.graph.doc_string)


def node_names(proto: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """Operator, name and first output of every node of the main graph that is no Constant."""
    return sorted(
        (node.op_type, node.name, node.output[0]) for node in proto.graph.node if node.op_type != "Constant"
    )


def worst_difference(before: onnx.ModelProto, after: onnx.ModelProto, feeds: list[Feed]) -> float:
    """Largest ``||a - b|| / ||a||`` over outputs and feeds, run without graph optimization."""
    sessions = [open_file(proto, optimize=False) for proto in (before, after)]
    worst = 0.0
    for feed in feeds:
        for a, b in zip(*(session.run(None, feed) for session in sessions), strict=True):
            a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
            worst = max(worst, float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)), 1e-30))
    return worst


def check(path: Path, feeds: list[Feed]) -> list[str]:
    """Cells of one line of the table."""
    before = onnx.load(path)
    written = to_proto(load(path))
    prepared = to_proto(prepare(load(path), 21))
    cells = [str(len(before.graph.node)), f"{version(before)} -> {version(prepared)}"]
    for proto in (written, prepared):
        onnx.checker.check_model(proto, full_check=False)
        same = (
            metadata(before) == metadata(proto),
            signature(list(before.graph.input)) == signature(list(proto.graph.input)),
            signature(list(before.graph.output)) == signature(list(proto.graph.output)),
        )
        cells += ["yes" if ok else "NO" for ok in same]
    cells.append("yes" if node_names(before) == node_names(written) else "NO")
    for proto, limit in ((written, 0.0), (prepared, TOLERANCE)):
        difference = worst_difference(before, proto, feeds)
        cells.append(f"{difference:.1e}" if difference <= limit else f"NO {difference:.1e}")
    return cells


def version(proto: onnx.ModelProto) -> int:
    return next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def cases(places: Places) -> list[tuple[str, Path, list[Feed]]]:
    """Every model that can be had here; the others are named with their reason."""
    found = []
    for model in ZOO:
        try:
            found.append((model.name, model.file(places), model.task(places).calibration[:FEEDS]))
        except UnavailableError as reason:
            print(f"{model.name}: skipped, {reason}\n")
    for guest in GUESTS:
        try:
            found.append((guest.name, guest.file(), guest.feeds()))
        except UnavailableError as reason:
            print(f"{guest.name}: skipped, {reason}\n")
    return found


HEAD = ("model", "nodes", "opset", "metadata", "inputs", "outputs", "prepared: metadata", "inputs", "outputs",
        "names", "difference", "prepared")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="exported models")
    parser.add_argument("--vit", help="folder(s) with vit_cifar10.onnx and cifar10_slice.npz")
    args = parser.parse_args()
    failed = False
    rows = []
    for name, path, feeds in cases(Places(args.cache, args.vit)):
        rows.append((name, *check(path, feeds)))
        failed = failed or any(cell.startswith("NO") for cell in rows[-1][1:])
        print(f"{name}: {' '.join(rows[-1][1:])}", file=sys.stderr, flush=True)
    for row in (HEAD, ("---",) * len(HEAD), *rows):
        print("| " + " | ".join(row) + " |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
