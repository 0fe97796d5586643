"""Accuracy of every solver at every width on real trained models, as a Markdown table and as JSON.

For each model: one float pass over the calibration samples, whose statistics every row shares; then each
width and solver is solved, written to a file, loaded in onnxruntime and scored on samples that are not used
for calibration. The weights of the written file are the only thing that differs from the float model: at the
session's settings nothing else is rounded.

    python tools/bench_accuracy.py --models efficientnet-lite0 --widths 4 --first-last int8 --json out.json

`rtn`, `gptq` and `comq-paper` are as published, without a compensating bias; ``+bias`` adds it. Models and
data come from installed packages; a model whose package is missing is skipped with the reason.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench_table import markdown
from zoo.catalogue import ZOO, choose
from zoo.model import Places, RealModel, Task, UnavailableError
from zoo.runner import run_all

from comq_onnx import pipeline
from comq_onnx.errors import ComqError
from comq_onnx.graph.io import save
from comq_onnx.layerwise import Solved
from comq_onnx.parallel import Survey, solve_all, survey
from comq_onnx.planning import open_run, regridded
from comq_onnx.recipe import Recipe
from comq_onnx.sequential import march

ROWS = ("rtn", "rtn+bias", "gptq", "gptq+bias", "comq-paper", "comq-paper+bias", "comq-parallel", "comq")


def recipe_for(row: str, width: int, args: argparse.Namespace) -> Recipe:
    """The recipe of one row: ``gptq+bias`` is ``gptq`` with the compensating bias."""
    solver, _, bias = row.removesuffix("-parallel").partition("+")
    return Recipe(
        weights=f"int{width}",  # pyright: ignore[reportArgumentType]
        solver=solver,  # pyright: ignore[reportArgumentType]
        bias="channel" if bias or solver == "comq" else "none",
        inputs="quantized" if row == "comq" else "float",
        block_size=args.block_size,
        first_last=args.first_last,
        symmetric=not args.asymmetric,
    )


@dataclass(frozen=True)
class Trial:
    """A model with its float outputs and its float pass done: ready for any number of rows."""

    survey: Survey
    task: Task
    reference: list[Any]
    threads: int


def bench_row(trial: Trial, solved: Solved, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Write, load, score: one row, as plain values."""
    started = time.monotonic()
    outcome = pipeline.write(trial.survey.opened, solved, recipe)
    path = folder / "quantized.onnx"
    files = save(outcome.model, path)
    outputs = run_all(path, trial.task.test, trial.task.reduce, trial.threads)
    return {
        "scores": trial.task.score(trial.reference, outputs),
        "bytes": sum(file.stat().st_size for file in files),
        "solve_seconds": round(sum(solved.seconds.values()), 2),
        "test_seconds": round(time.monotonic() - started, 2),
        "layers": [asdict(line) for line in outcome.lines],  # their SQNR is that of the row that was solved
    }


def solve(trial: Trial, recipe: Recipe) -> Solved:
    """Every layer's solution, on the inputs the recipe names."""
    trial = replanned(trial, recipe)
    if recipe.inputs == "quantized":
        return march(trial.survey.opened, recipe)
    return solve_all(trial.survey, recipe)


def replanned(trial: Trial, recipe: Recipe) -> Trial:
    """The same float pass for another recipe's grids."""
    surveyed = replace(trial.survey, opened=regridded(trial.survey.opened, recipe))
    return replace(trial, survey=surveyed)


def without_bias(solved: Solved) -> Solved:
    """The same codes without the compensating bias: baselines choose their codes without regard to it."""
    bare = {name: replace(solution, bias=None) for name, solution in solved.solutions.items()}
    return replace(solved, solutions=bare)


def start_model(model: RealModel, places: Places, args: argparse.Namespace, record: dict[str, Any]) -> Trial:
    """Score the float file and make the float pass; both go into `record`."""
    path, task = model.file(places), model.task(places)
    reference = run_all(path, task.test, task.reduce, args.threads)
    record.update(float=task.score(reference, reference), bytes=path.stat().st_size, facts=dict(task.facts))
    record.update(task=model.task_score, primary=model.primary)
    record.update(higher_is_better=model.higher_is_better, compare_task=model.compare_task)
    record["remark"] = baseline_remark(model, record["float"])
    say(f"{model.name}: float {brief(record['float'])}; {record['remark']}")
    started = time.monotonic()
    recipe = recipe_for("comq", 4, args)
    surveyed = survey(open_run(path, task.calibration, recipe), recipe)
    record["survey_seconds"] = round(time.monotonic() - started, 2)
    return Trial(surveyed, task, reference, args.threads)


def bench_model(model: RealModel, places: Places, args: argparse.Namespace, record: dict[str, Any]) -> None:
    """Every row that `record` does not hold yet; each is kept and said on stderr as it is made."""
    rows = record.setdefault("rows", [])
    have = {(row["width"], row["solver"]) for row in rows}
    todo = [(width, name) for width in args.widths for name in args.solvers if (width, name) not in have]
    if not todo:
        return
    trial = start_model(model, places, args, record)
    known: dict[tuple[int, str], Solved] = {}
    for width, name in sorted(todo, key=lambda entry: (-entry[0], entry[1].split("+")[0], -len(entry[1]))):
        recipe = recipe_for(name, width, args)
        bare = known.pop((width, name + "+bias"), None)
        solved = without_bias(bare) if bare else solve(trial, recipe)
        known[width, name] = solved
        with tempfile.TemporaryDirectory() as folder:
            row = bench_row(replanned(trial, recipe), solved, recipe, Path(folder))
        rows.append({"width": width, "solver": name, **row})
        say(f"{model.name} W{width} {name}: {brief(row['scores'])} ({row['solve_seconds']:.0f} s to solve)")
        write_json(args)


def baseline_remark(model: RealModel, scores: dict[str, float]) -> str:
    """Whether the float file scores as it is known to."""
    if model.expected is None or model.task_score not in scores:
        return "No task score is known for the float file"
    known, slack = model.expected
    close = abs(scores[model.task_score] - known) <= slack
    return f"Float {model.task_score} is {'near' if close else 'NOT near'} the known {known}"


def brief(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_json(args: argparse.Namespace) -> None:
    """Keep what is there so far: a long run that is stopped loses one row at most."""
    if args.json is not None:
        beside = args.json.with_suffix(".part")
        beside.write_text(json.dumps(args.results, indent=1))
        beside.replace(args.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="all", help=f"all, or some of {','.join(m.name for m in ZOO)}")
    parser.add_argument("--widths", default="8,4,3,2", help="bits of a weight")
    parser.add_argument("--solvers", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--first-last", default="same", choices=("same", "int8"))
    parser.add_argument("--block-size", default="channel", help="auto, channel, tensor or 16 to 256")
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--json", type=Path, help="write all results here, after every row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --json holds")
    parser.add_argument("--limit", type=int, help="test samples; for a quick look only")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime, for the scores")
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="exported models")
    parser.add_argument("--vit", help="folder(s) with vit_cifar10.onnx and cifar10_slice.npz")
    parser.add_argument("--sts", type=Path, help="CSV of sentence pairs and scores, for MiniLM's task score")
    args = parser.parse_args()
    args.widths = [int(width) for width in args.widths.split(",")]
    args.solvers = args.solvers.split(",")
    unknown = [name for name in args.solvers if name not in ROWS]
    if unknown:
        parser.error(f"--solvers: no row {unknown[0]}; there are {', '.join(ROWS)}")
    return args


def start_results(args: argparse.Namespace) -> dict[str, Any]:
    """An empty record of this run's settings, or the one in the file with ``--resume``."""
    settings = {
        "first_last": args.first_last,
        "block_size": args.block_size,
        "symmetric": not args.asymmetric,
        "limit": args.limit,
    }
    if args.resume and args.json is not None and args.json.exists():
        results = json.loads(args.json.read_text())
        if results["settings"] != settings:
            raise SystemExit(f"--resume: {args.json} was made with other settings: {results['settings']}")
        return results
    return {"settings": settings, "models": {}, "skipped": {}}


def main() -> int:
    args = parse()
    places = Places(args.cache, args.vit, args.sts, args.limit)
    args.results = start_results(args)
    failed = False
    for model in choose(args.models):
        try:
            bench_model(model, places, args, args.results["models"].setdefault(model.name, {}))
            args.results["skipped"].pop(model.name, None)
        except UnavailableError as reason:
            args.results["models"].pop(model.name)
            args.results["skipped"][model.name] = str(reason)
            say(f"{model.name}: skipped, {reason}")
        except ComqError as error:
            failed = True
            args.results["skipped"][model.name] = f"failed: {error}"
            say(f"{model.name}: FAILED, {error}")
        write_json(args)
    print(markdown(args.results))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
