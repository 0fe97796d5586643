"""Task scores of files with 8-bit activations in onnxruntime, and the agreement of runtimes.

For each model and width the weights are solved once, by comq on the quantized network's inputs. Two files are
written of the same codes: weights alone, scored with float activations, and with int8 activations, scored as
onnxruntime runs it by default, its 8-bit kernels fused. Then the second file is run in other runtimes, on
some test samples: how far its outputs are from those of onnxruntime with no optimisation (`same`, relative
L2, in exact and in deployed settings), and the task score there beside onnxruntime's on the same samples.

    python tools/bench_activations.py --models vit,minilm --widths 8,4 --json out.json

Models and data come from installed packages; a model whose package is missing is skipped with the reason.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from zoo.catalogue import ZOO, choose
from zoo.model import Places, RealModel, Task, UnavailableError
from zoo.runner import run_all

from comq_onnx import pipeline
from comq_onnx.errors import ComqError
from comq_onnx.evaluate.agreement import deviation
from comq_onnx.graph.io import save
from comq_onnx.planning import Opened, open_run
from comq_onnx.recipe import Recipe
from comq_onnx.resume import check_folder, open_journal
from comq_onnx.run.node import NODE, WEB, node_missing, outputs_in_node
from comq_onnx.run.openvino_ import openvino_missing, outputs_in_openvino
from comq_onnx.sensitivity import settle
from comq_onnx.smoothing import resmoothed, smoothed_run
from comq_onnx.targets.placement import NOWHERE

TARGETS = {"openvino": "openvino", NODE: "ort", WEB: "web"}
"""The target whose file a runtime is given"""
TIMEOUT = 3600.0


def session_of(path: Path, optimize: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs_of(path: Path, feeds: list[dict[str, np.ndarray]], optimize: bool = True) -> list[dict[str, Any]]:
    session = session_of(path, optimize)
    names = [node.name for node in session.get_outputs()]
    inputs = {node.name for node in session.get_inputs()}
    return [
        dict(zip(names, session.run(names, {k: v for k, v in feed.items() if k in inputs}), strict=True))
        for feed in feeds
    ]


def deployed_scores(path: Path, task: Task, reference: list[Any]) -> dict[str, float]:
    """All test samples, one after the other, as onnxruntime runs the file by default."""
    session = session_of(path, True)
    inputs = {node.name for node in session.get_inputs()}
    reduced = []
    for i, feed in enumerate(task.test):
        outputs = session.run(None, {k: v for k, v in feed.items() if k in inputs})
        reduced.append(task.reduce(i, [np.asarray(v) for v in outputs]))
    return task.score(reference, reduced)


@dataclass(frozen=True)
class Files:
    """One model at one width."""

    opened: Opened
    solved: Any
    recipe: Recipe

    def weights_only(self, path: Path) -> Path:
        bare = replace(self.opened, plan=replace(self.opened.plan, placement=NOWHERE))
        recipe = replace(self.recipe, activations="none")
        save(pipeline.write(bare, self.solved, recipe).model, path)
        return path

    def eight_bit(self, path: Path, grids: dict[str, Any]) -> Path:
        save(pipeline.write(self.opened, self.solved, self.recipe, grids).model, path)
        return path


def solve(path: Path, task: Task, width: int, args: argparse.Namespace) -> Files:
    """Weights solved, or taken from an earlier run's ``--keep`` folder."""
    recipe = Recipe(
        weights=f"int{width}",  # pyright: ignore[reportArgumentType]
        activations="int8",
        target="ort",
        first_last=args.first_last,
        calibration_method=args.method,
    )
    opened = open_run(path, task.calibration, recipe)
    if not args.plain:
        opened = smoothed_run(opened, recipe)
    journal = None
    if args.keep:
        folder = args.keep / f"{args.now}-W{width}-{args.first_last}{'-plain' if args.plain else ''}"
        folder.mkdir(parents=True, exist_ok=True)
        journal = open_journal(check_folder(folder), opened, recipe)
    return Files(opened, pipeline.solve_model(opened, recipe, journal=journal), recipe)


def elsewhere(
    files: Files, grids: dict[str, Any], task: Task, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """What other runtimes make of the test samples of `task`, few enough for the slowest of them."""
    feeds, found = task.test, {}
    reference = run_all(args.path, feeds, task.reduce)
    for runtime in args.runtimes:
        missing = openvino_missing() if runtime == "openvino" else node_missing(runtime, args.node)
        if missing:
            found[runtime] = {"skipped": missing}
            continue
        target = TARGETS[runtime]
        recipe = replace(files.recipe, target=target)
        try:
            opened = open_run(args.path, task.calibration, recipe)
        except ComqError as error:
            found[runtime] = {"skipped": str(error)}
            continue
        path = folder / f"{target}.onnx"
        chosen = grids
        if target == "ort":
            opened = files.opened
        else:
            opened = replace(opened, plan=resmoothed(opened.plan, files.opened, recipe))
            opened, chosen = settle(opened, files.solved, recipe)
        save(pipeline.write(opened, files.solved, recipe, chosen).model, path)
        plain = outputs_of(path, feeds, optimize=False)
        if runtime == "openvino":
            exact, deployed = outputs_in_openvino(path, feeds, [True, False], TIMEOUT)
            answers = {"exact": exact, "deployed": deployed}
        else:
            answers = {"deployed": outputs_in_node(runtime, path, feeds, args.node, TIMEOUT)}
        found[runtime] = {name: compare(plain, answer, task, reference) for name, answer in answers.items()}
    return found


def compare(plain: list[Any], answer: Any, task: Task, reference: list[Any]) -> dict[str, Any]:
    if isinstance(answer, ComqError):
        return {"failed": str(answer)}
    scores = {}
    for name, outputs in (("onnxruntime", plain), ("there", answer)):
        reduced = [task.reduce(i, list(values.values())) for i, values in enumerate(outputs)]
        scores[name] = task.score(reference, reduced)
    return {"same": max(deviation(plain, answer, key) for key in plain[0]), "scores": scores}


def bench_model(model: RealModel, places: Places, args: argparse.Namespace, record: dict[str, Any]) -> None:
    path, task = model.file(places), model.task(places)
    few = model.task(replace(places, limit=args.samples))
    args.now, args.path = model.name, path
    reference = run_all(path, task.test, task.reduce)
    record.update(float=task.score(reference, reference), task=model.task_score, primary=model.primary)
    record.update(higher_is_better=model.higher_is_better)
    say(f"{model.name}: float {brief(record['float'])}")
    for width in args.widths:
        files = solve(path, task, width, args)
        opened, grids = settle(files.opened, files.solved, files.recipe)
        files = replace(files, opened=opened)
        row: dict[str, Any] = {"layers": len(files.opened.plan.layers)}
        row["smoothed"] = len(files.opened.plan.smoothed)
        row["eight_bit"] = len(files.opened.plan.placement.layers)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            alone = files.weights_only(folder / "alone.onnx")
            row["weights"] = task.score(reference, run_all(alone, task.test, task.reduce))
            both = files.eight_bit(folder / "both.onnx", grids)
            row["both"] = deployed_scores(both, task, reference)
            plain, fused = outputs_of(both, few.test, optimize=False), outputs_of(both, few.test)
            row["fused"] = max(deviation(plain, fused, key) for key in plain[0])
            say(f"{model.name} W{width}: {brief(row['weights'])}")
            say(f"{model.name} W{width}A8: {brief(row['both'])}; fused {row['fused']:.3g}")
            row["elsewhere"] = elsewhere(files, grids, few, args, folder)
        for runtime, entry in row["elsewhere"].items():
            for setting, value in entry.items():
                said = value if not isinstance(value, dict) or "same" not in value else f"{value['same']:.3g}"
                say(f"  {runtime} {setting}: {said}")
        record.setdefault("rows", {})[str(width)] = row
        if args.json:
            args.json.write_text(json.dumps(args.results, indent=1))


def brief(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def markdown(results: dict[str, Any]) -> str:
    """A line for each model and width."""
    lines = [
        "| model | task score | float | weights alone | with A8 | distance, alone | with A8 | fused = plain |"
        " OpenVINO exact | deployed | node | web |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, model in results["models"].items():
        for width, row in model.get("rows", {}).items():
            task, primary, other = model["task"], model["primary"], row["elsewhere"]
            cells = [
                f"{name} W{width}",
                f"{task} ({primary})",
                *(told(scores.get(task)) for scores in (model["float"], row["weights"], row["both"])),
                *(f"{scores[primary]:.4g}" for scores in (row["weights"], row["both"])),
                f"{row['fused']:.2g}",
                *(
                    same(other.get(runtime, {}).get(setting))
                    for runtime, setting in (
                        ("openvino", "exact"),
                        ("openvino", "deployed"),
                        (NODE, "deployed"),
                        (WEB, "deployed"),
                    )
                ),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def told(score: float | None) -> str:
    """Without its data a model has no task score."""
    return "-" if score is None else f"{score:.4g}"


def same(entry: Any) -> str:
    if not isinstance(entry, dict):
        return "-"
    return f"{entry['same']:.2g}" if "same" in entry else "failed"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="all", help=f"all, or some of {','.join(m.name for m in ZOO)}")
    parser.add_argument("--widths", default="8,4", help="bits of a weight")
    parser.add_argument("--first-last", default="same", choices=("same", "int8"))
    parser.add_argument("--method", default="mse", help="how ranges are chosen")
    parser.add_argument("--plain", action="store_true", help="move no channel scales into weights")
    parser.add_argument("--runtimes", default="openvino,onnxruntime-node,onnxruntime-web")
    parser.add_argument("--samples", type=int, default=32, help="test samples in other runtimes")
    parser.add_argument("--node", type=Path, help="folder with node_modules")
    parser.add_argument("--keep", type=Path, help="folder for solved weights, taken again from there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=int, help="test samples; for a quick look only")
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="exported models")
    parser.add_argument("--vit", help="folder(s) with vit_cifar10.onnx and cifar10_slice.npz")
    parser.add_argument("--sts", type=Path, help="CSV of sentence pairs and scores, for MiniLM's task score")
    args = parser.parse_args()
    args.widths = [int(width) for width in args.widths.split(",")]
    args.runtimes = [name for name in args.runtimes.split(",") if name]
    return args


def main() -> int:
    args = parse()
    places = Places(args.cache, args.vit, args.sts, args.limit)
    args.results = {"first_last": args.first_last, "method": args.method, "models": {}, "skipped": {}}
    for model in choose(args.models):
        try:
            bench_model(model, places, args, args.results["models"].setdefault(model.name, {}))
        except UnavailableError as reason:
            args.results["models"].pop(model.name)
            args.results["skipped"][model.name] = str(reason)
            say(f"{model.name}: skipped, {reason}")
    print(markdown(args.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
