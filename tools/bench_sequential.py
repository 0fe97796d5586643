"""What sequential calibration costs and gives, on real models.

    python tools/bench_sequential.py --cache build/zoo --parts cost memory

`cost`: node executions in forward passes, and wall time over the parallel mode's (statistics and solve, the
same recipe in the same process, in turns). `memory`: peak resident memory of whole runs on
EfficientNet-Lite0 with 256 photographs at 224 x 224, without a limit and with two of them, each in a process
of its own, and whether they write the same bytes. `ablation`: scores on test data of the parallel mode, the
quantized prefix alone, the corrected target, and what is off by default.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from solver.whole import efficientnet_data
from zoo.catalogue import choose
from zoo.model import Places, RealModel, Task
from zoo.runner import run_all

from comq_onnx import pipeline
from comq_onnx.graph.io import save
from comq_onnx.layerwise import Solved
from comq_onnx.parallel import solve_all, survey
from comq_onnx.planning import Opened, open_run
from comq_onnx.recipe import Recipe
from comq_onnx.sequential import march

VARIANTS = ("parallel", "prefix", "corrected", "mrecg", "position", "block")
PAIRS = 8
"""Of layers solved together, in the variant `mrecg`."""
PARTS = ("cost", "memory", "ablation")
COST_MODELS = ("minilm", "efficientnet-lite0", "ocr-rec", "ocr-det")


def cost(places: Places, args: argparse.Namespace) -> None:
    """Print executions and wall time of both modes."""
    print("| model | layers | nodes run, in forward passes | sequential / parallel, wall time |")
    print("| --- | ---: | ---: | ---: |")
    for model in choose(args.models or ",".join(COST_MODELS)):
        recipe = Recipe(threads=args.threads, block_size="channel")
        opened = open_run(model.file(places), model.task(places).calibration, recipe)
        times: dict[str, list[float]] = {"float": [], "quantized": []}
        passes = 0.0
        for _ in range(args.repeats):
            started = time.perf_counter()
            solve_all(survey(opened, recipe), recipe)
            times["float"].append(time.perf_counter() - started)
            started = time.perf_counter()
            passes = march(opened, recipe).passes
            times["quantized"].append(time.perf_counter() - started)
        ratio = min(times["quantized"]) / min(times["float"])
        print(f"| {model.name} | {len(opened.plan.layers)} | {passes:.2f} | {ratio:.2f}x |", flush=True)


def memory(places: Places, args: argparse.Namespace) -> None:
    """Print the peak memory of whole runs with and without a limit."""
    path, feeds = efficientnet_data(places)
    with tempfile.TemporaryDirectory() as folder:
        data, written = Path(folder) / "data.npz", []
        names = feeds[0].keys()
        np.savez(data, **{name: np.concatenate([feed[name] for feed in feeds]) for name in names})
        size = path.stat().st_size / 1e6
        print(f"EfficientNet-Lite0, {len(feeds)} samples at 224 x 224, float file {size:.0f} MB")
        for limit in ("", "2GB", "1GB"):
            out = Path(folder) / f"q{limit}.onnx"
            command = [sys.executable, "-m", "comq_onnx", str(path), "-o", str(out), "--quiet"]
            command += ["--calibration-data", str(data), "--effort", "fast"]
            peak = peak_memory(command + (["--memory", limit] if limit else []))
            written.append(out.read_bytes())
            same = "" if written[0] == written[-1] else ", DIFFERENT BYTES"
            print(f"--memory {limit or '(not given)'}: peak {peak / 1e9:.2f} GB{same}", flush=True)
        print("same bytes:", all(each == written[0] for each in written))


def peak_memory(command: list[str]) -> int:
    """Peak resident bytes of a child process; the largest child so far, so that small runs come last."""
    watcher = "import resource,subprocess,sys;subprocess.run(sys.argv[1:],check=True);"
    watcher += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    whole = [sys.executable, "-c", watcher, *command]
    done = subprocess.run(whole, check=True, capture_output=True, text=True)
    unit = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout.split()[-1]) * unit


def ablation(places: Places, args: argparse.Namespace) -> None:
    """Print the scores of each step of the way, on test data."""
    for model in choose(args.models or "minilm,efficientnet-lite0,ocr-rec"):
        path, task = model.file(places), model.task(places)
        reference = run_all(path, task.test, task.reduce, args.threads)
        print(f"\n{model.name}, {model.primary} and {model.task_score}; float ", end="")
        print(brief(task.score(reference, reference), model))
        for width in args.widths:
            recipe = Recipe(
                weights=f"int{width}",  # pyright: ignore[reportArgumentType]
                block_size="channel",
                first_last=args.first_last,
                threads=args.threads,
            )
            opened = open_run(path, task.calibration, recipe)
            for name in args.variants:
                solved, used = variant(name, opened, recipe)
                scores = judge(opened, solved, used, (task, reference, args.threads))
                print(f"| W{width} | {name} | {brief(scores, model)} |", flush=True)


def variant(name: str, opened: Opened, recipe: Recipe) -> tuple[Solved, Recipe]:
    """The solution of one step of the way, and the recipe it is written with."""
    if name == "parallel":
        return solve_all(survey(opened, recipe), recipe), recipe
    if name == "prefix":
        return march(opened, recipe, correct=False), recipe
    changes = {
        "corrected": {},
        "mrecg": {"mrecg": PAIRS},
        "position": {"bias": "position"},
        "block": {"bias": "block"},
    }
    changed = replace(recipe, **changes[name])
    return march(opened, changed), changed


def judge(opened: Opened, solved: Solved, recipe: Recipe, trial: tuple[Task, list, int]) -> dict[str, float]:
    """Scores of the written file."""
    task, reference, threads = trial
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.onnx"
        save(pipeline.write(opened, solved, recipe).model, path)
        return task.score(reference, run_all(path, task.test, task.reduce, threads))


def brief(scores: dict[str, float], model: RealModel) -> str:
    names = dict.fromkeys((model.primary, model.task_score))
    return " | ".join(f"{scores[name]:.4g}" for name in names if name in scores)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--models", default="", help="of the zoo, separated by commas")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--first-last", default="int8", choices=("same", "int8"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"))
    parser.add_argument("--vit", help="folder(s) with vit_cifar10.onnx and cifar10_slice.npz")
    parser.add_argument("--sts", type=Path, help="CSV of sentence pairs and scores")
    args = parser.parse_args()
    places = Places(args.cache, args.vit, args.sts, None)
    for part in args.parts:
        print(f"\n## {part}\n")
        {"cost": cost, "memory": memory, "ablation": ablation}[part](places, args)


if __name__ == "__main__":
    main()
