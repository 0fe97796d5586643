"""How much faster each written file is than its float file, by runtime.

All files of a model take turns in one process on one thread, the float file among them; a number is the
float file's median time over the file's: above 1 is faster than float. The solver does not change the speed:
weights are rounded to nearest.

    python tools/bench_latency.py --models minilm,ocr-det --kinds W8A8 --runtimes ort,openvino --json out.json
    python tools/bench_latency.py --pair float.onnx quantized.onnx --shapes x:1x3x224x224

Models and data come from installed packages; a model whose package is missing is skipped with the reason.
OpenVINO computes in bfloat16 where the CPU has it, the float file too.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from timing.runtimes import RUNTIMES, TARGETS, Feeds, missing, timed
from timing.subjects import Subject, subject
from zoo.model import Places, UnavailableError

from comq_onnx import pipeline
from comq_onnx.errors import ComqError
from comq_onnx.graph.io import save
from comq_onnx.planning import open_run
from comq_onnx.recipe import Recipe
from comq_onnx.run.node import NODE, WEB
from comq_onnx.sensitivity import settle
from comq_onnx.smoothing import smoothed_run

KINDS = {
    "W8": ("int8", "none"),
    "W4": ("int4", "none"),
    "W8A8": ("int8", "int8"),
    "W4A8": ("int4", "int8"),
    "W2A8": ("int2", "int8"),
    "dynamic": ("int8", "dynamic"),
}
"""Weights and activations of a kind of file"""
PORTABLE = "W8A8 portable"
MODELS = "minilm,efficientnet-lite0,ocr-det,vit,resnet18,stack"
FLAGS = ("avx2", "avx512_vnni", "avx_vnni")
SLOW = 0.95
GOALS = {
    "minilm W8A8": 1.8,
    "resnet18 W8A8": 1.8,
    "ocr-det W8A8": 1.8,
    "efficientnet-lite0 W8A8": 1.3,
    "stack, 1 row W4": 3.5,
}
"""What onnxruntime is to reach"""
Row = dict[str, Any]


def write(made: Subject, kind: str, target: str, folder: Path, size_first: bool) -> Path:
    """The file of a kind for a target, kept in `folder`. ComqError where the target has none."""
    path = folder / f"{made.name}-{target}-{kind.split()[0]}{'-size' if size_first else ''}.onnx"
    if path.exists():
        return path
    weights, activations = KINDS[kind.split()[0]]
    recipe = Recipe(
        solver="rtn",
        inputs="float",
        weights=weights,  # pyright: ignore[reportArgumentType]
        activations=activations,  # pyright: ignore[reportArgumentType]
        target=target,  # pyright: ignore[reportArgumentType]
        calibration_method="minmax",
        size_first=size_first,
    )
    opened = smoothed_run(open_run(made.path, made.calibration, recipe), recipe)
    solved = pipeline.solve_model(opened, recipe)
    opened, grids = settle(opened, solved, recipe)
    save(pipeline.write(opened, solved, recipe, grids).model, path)
    return path


def bench(made: Subject, args: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A row for each kind and runtime: a ratio, or a reason why there is none."""
    for runtime in args.runtimes:
        files: dict[str, Path] = {}
        refused: dict[str, str] = {}
        for kind in kinds_in(made.name, args.kinds, runtime):
            target = "portable" if kind == PORTABLE else TARGETS[runtime]
            try:
                files[kind] = write(made, kind, target, folder, args.size_first)
            except ComqError as error:
                refused[kind] = str(error)
        for name, feeds in made.timed.items():
            seconds: list[float | str] = []
            if files:
                seconds = timed(runtime, [made.path, *files.values()], feeds, args.rounds, args.node)
            for kind, found in zip(files, seconds[1:], strict=True):
                yield row(name, kind, runtime, found, seconds[0]) | share(made.path, files[kind])
            for kind, why in refused.items():
                yield row(name, kind, runtime, why)


def kinds_in(model: str, kinds: Sequence[str], runtime: str) -> list[str]:
    """The portable file is one for transformers: no layer of a convolutional net computes in 8 bits there."""
    more = model in ("minilm", "vit") and "W8A8" in kinds and runtime in ("ort", "openvino")
    return [*kinds, PORTABLE] if more else list(kinds)


def row(model: str, kind: str, runtime: str, found: float | str, base: float | str = "") -> Row:
    made: Row = {"model": model, "kind": kind, "runtime": runtime}
    if isinstance(found, str):
        return made | {"reason": found}
    return made | {"ratio": float(base) / found, "seconds": found, "float_seconds": base}


def share(before: Path, after: Path) -> dict[str, float]:
    return {"disk": after.stat().st_size / before.stat().st_size}


def markdown(rows: Sequence[Row], runtimes: Sequence[str]) -> str:
    """A line for each model and kind, a column for each runtime, and reasons below."""
    lines = [
        f"| file | disk | {' | '.join(runtimes)} |",
        f"|---|---:|{'---:|' * len(runtimes)}",
    ]
    notes: dict[str, int] = {}
    table: dict[tuple[str, str], dict[str, Row]] = {}
    for found in rows:
        table.setdefault((found["model"], found["kind"]), {})[found["runtime"]] = found
    for (model, kind), cells in table.items():
        sizes = [cell["disk"] for cell in cells.values() if "disk" in cell]
        shown = [cell_text(cells.get(runtime), notes) for runtime in runtimes]
        disk = f"{sizes[0]:.2f}" if sizes else "-"
        lines.append(f"| {model} {kind} | {disk} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", *(f"[{number}] {reason}" for reason, number in notes.items())]).rstrip()


def cell_text(cell: Row | None, notes: dict[str, int]) -> str:
    """A ratio, marked where the file is slower than float, or the number of a reason, kept in `notes`."""
    if cell is None:
        return ""
    if "reason" in cell:
        return f"[{notes.setdefault(cell['reason'], len(notes) + 1)}]"
    return f"{cell['ratio']:.2f}{' (slow)' if cell['ratio'] < SLOW else ''}"


def verdicts(rows: Sequence[Row]) -> list[str]:
    """What was promised, and files that are slower than float."""
    there = [r for r in rows if r["runtime"] == "ort" and "ratio" in r]
    ratios = {f"{r['model']} {r['kind']}": r["ratio"] for r in there}
    lines = []
    for name in GOALS.keys() & ratios.keys():
        held = "yes" if ratios[name] >= GOALS[name] else "NO"
        lines.append(f"- {name} in onnxruntime: {ratios[name]:.2f}, at least {GOALS[name]}: {held}")
    lines.sort()
    slow = [r for r in rows if r.get("ratio", 1.0) < SLOW]
    lines += [
        f"- slower than float: {r['model']} {r['kind']} in {r['runtime']}, {r['ratio']:.2f}" for r in slow
    ]
    return lines if slow else [*lines, f"- no file is slower than {SLOW} of float"]


def machine(runtimes: Sequence[str], node: Path | None) -> dict[str, str]:
    """The CPU's relevant flags and the versions of the runtimes."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    name = next((line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "unknown")
    found = {"CPU": f"{name}, {' '.join(f for f in FLAGS if f in flags) or 'none of ' + ' '.join(FLAGS)}"}
    for runtime in runtimes:
        if runtime in (NODE, WEB):
            described = (node or Path.cwd()) / "node_modules" / runtime / "package.json"
            text = described.read_text(encoding="utf-8") if described.is_file() else "{}"
            found[runtime] = json.loads(text).get("version", "unknown")
        else:
            found[runtime] = version("onnxruntime" if runtime == "ort" else runtime)
    return found


def shapes_of(text: str) -> dict[str, tuple[int, ...]]:
    """``x:1x3x224x224,y:1x8`` as shapes by name."""
    shapes = {}
    for part in text.split(","):
        name, _, sizes = part.rpartition(":")
        if not name or not all(size.isdigit() for size in sizes.split("x")):
            raise SystemExit(f"--shapes: {part!r} is not of the form name:1x3x224x224")
        shapes[name] = tuple(int(size) for size in sizes.split("x"))
    return shapes


def feeds_for(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Feeds:
    """Random numbers for every input of a file: normal floats, integers 0 and 1."""
    rng, feeds = np.random.default_rng(0), {}
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    for node in onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs():
        shape = shapes.get(node.name, tuple(node.shape))
        if node.type not in kinds or not all(isinstance(size, int) for size in shape):
            raise SystemExit(f"--shapes: name the shape of {node.name}, {node.type} {node.shape}")
        values = rng.standard_normal(shape) if "float" in node.type else rng.integers(0, 2, shape)
        feeds[node.name] = values.astype(kinds[node.type])
    return feeds


def pair(args: argparse.Namespace) -> list[Row]:
    before, after = args.pair
    feeds, rows = feeds_for(before, shapes_of(args.shapes) if args.shapes else {}), []
    for runtime in args.runtimes:
        base, found = timed(runtime, [before, after], feeds, args.rounds, args.node)
        rows.append(row(after.stem, "", runtime, found, base) | share(before, after))
    return rows


def zoo(args: argparse.Namespace) -> list[Row]:
    places, rows = Places(args.cache, args.vit, None, 1), []
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for model in args.models.split(","):
            try:
                for found in bench(subject(model, places), args, folder):
                    rows.append(found)
                    say(json.dumps(found))
                    if args.json:
                        args.json.write_text(json.dumps({"machine": args.machine, "rows": rows}, indent=1))
            except UnavailableError as reason:
                say(f"{model}: skipped, {reason}")
    return rows


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--rounds", type=int, default=15, help="at least so many; more of fast files")
    parser.add_argument("--pair", nargs=2, type=Path, metavar=("FLOAT", "QUANTIZED"))
    parser.add_argument("--shapes", default="", help="with --pair: name:1x3x224x224,...")
    parser.add_argument("--size-first", action="store_true", help="quantize what is slower then, too")
    parser.add_argument("--node", type=Path, help="folder with node_modules")
    parser.add_argument("--keep", type=Path, help="folder for the written files, taken again from there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="exported models")
    parser.add_argument("--vit", help="folder(s) with vit_cifar10.onnx and cifar10_slice.npz")
    args = parser.parse_args()
    args.kinds, args.runtimes = args.kinds.split(","), args.runtimes.split(",")
    for name, known, given in (("--kinds", KINDS, args.kinds), ("--runtimes", RUNTIMES, args.runtimes)):
        if unknown := [value for value in given if value not in known]:
            raise SystemExit(f"{name}: no {unknown[0]}; there are {', '.join(known)}")
    return args


def main() -> int:
    args = parse()
    for runtime in list(args.runtimes):
        if why := missing(runtime, args.node):
            say(f"{runtime}: skipped, {why}")
            args.runtimes.remove(runtime)
    args.machine = machine(args.runtimes, args.node)
    rows = pair(args) if args.pair else zoo(args)
    print(markdown(rows, args.runtimes), *verdicts(rows), sep="\n")
    print("; ".join(f"{name} {value}" for name, value in args.machine.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
