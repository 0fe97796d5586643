"""Allocated bits beside uniform ones on real models, at equal size and smaller, and what prices are worth.

For each model: the files of uniform int4 and int3 are written and scored on test data. Then the allocator's
file at the size of uniform int4, at parts of it, at the size of uniform int3 and at 85 % of that
("measured"); and, as ablations, ranked by dual price without the caution that whole networks are measured
for, by layer loss alone, and by loss times the size. Every file is solved in full. One file says little about
a ranking, because a few flipped answers make most of a divergence: means over all sizes are told as well, of
relative errors too.

    python tools/bench_budgets.py --models ocr-rec,minilm,efficientnet-lite0

With ``--draws`` the files of uniform codes and the allocator's are made on several draws of the calibration
data, and geometric means of their scores are told.

Models and data come from installed packages; a model whose package is missing is skipped with the reason.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from zoo.catalogue import choose as models_of
from zoo.model import Places, RealModel, Task, UnavailableError
from zoo.runner import run_all

from comq_onnx import pipeline
from comq_onnx.budgeting import fitted
from comq_onnx.caution import with_caution
from comq_onnx.errors import ComqError
from comq_onnx.graph.io import save
from comq_onnx.planning import Opened, open_run, silent
from comq_onnx.pricing import Bed
from comq_onnx.recipe import Recipe
from comq_onnx.stakes import Problem, limits_of, pose_problem
from comq_onnx.writing import stamp

WITH_EMBEDDINGS = ("minilm", "minilm-dynamo")
SHARES = (1.0, 0.95, 0.9, 0.85)
STEADY = "rel. error %"
"""A score that hangs less on a few answers than divergences do; told with the means"""


@dataclass(frozen=True)
class Job:
    """A model, its data, and the float outputs."""

    path: Path
    task: Task
    reference: list

    def file(self, opened: Opened, recipe: Recipe, asked: Recipe) -> tuple[int, dict[str, float], float]:
        """Bytes and scores of the file of this plan, as it is written for who asked for `asked`; and the
        seconds that quantizing took."""
        started = time.monotonic()
        solved = pipeline.solve_model(opened, recipe)
        outcome = pipeline.write(opened, solved, recipe)
        spent = time.monotonic() - started
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantized.onnx"
            save(stamp(outcome.model, opened.calibration, asked), path)
            outputs = run_all(path, self.task.test, self.task.reduce)
            return path.stat().st_size, self.task.score(self.reference, outputs), spent


def ranked(problem: Problem, by: str) -> Problem:
    """The problem whose effects are those that prices tell, or what an ablation takes for them."""
    if by in ("measured", "price"):
        return problem
    priced = []
    for one in problem.priced:
        unit = 1.0 if by == "loss" else float(np.prod(one.layer.layout.shape))
        candidates = tuple(replace(c, effect=c.loss * unit) for c in one.candidates)
        priced.append(replace(one, candidates=candidates))
    return replace(problem, priced=priced)


def bench(model: RealModel, places: Places) -> None:
    path, task = model.file(places), model.task(places)
    job = Job(path, task, run_all(path, task.test, task.reduce))
    base = Recipe(target="ort", quantize_embeddings=model.name in WITH_EMBEDDINGS)
    print(f"\n{model.name}\n\n| storage | bytes | {model.primary} | {model.task_score} |", flush=True)
    print("| --- | ---: | ---: | ---: |", flush=True)
    opened, seconds, sizes = open_run(path, task.calibration, base), 0.0, {}
    for width in ("int3", "int4"):
        recipe = replace(base, weights=width)  # pyright: ignore[reportArgumentType]
        size, scores, seconds = job.file(open_run(path, task.calibration, recipe), recipe, recipe)
        tell(f"uniform {width}", size, scores, model)
        sizes[width] = size
    started = time.monotonic()
    problem, bed = pose_problem(opened, base, silent)
    posing = time.monotonic() - started
    for by in ("measured", "price", "loss", "size"):
        found = []
        for share in SHARES:
            scores, spent = allocated(job, (problem, bed), by, (sizes["int4"], share, "int4"), model)
            posing += spent if by == "measured" and share == 1 else 0.0
            found.append([scores.get(name, np.nan) for name in (model.primary, STEADY)])
        means = [f"{mean:.4g}" for mean in np.exp(np.mean(np.log(found), axis=0))]
        print(f"| by {by}, geometric mean | | {means[0]} | {STEADY} {means[1]} |", flush=True)
    for share in (SHARES[0], SHARES[-1]):
        allocated(job, (problem, bed), "measured", (sizes["int3"], share, "int3"), model)
    print(f"\ncurves and prices take {posing / seconds:.2f}x of what quantizing takes", flush=True)


def scatter(model: RealModel, places: Places, draws: int) -> None:
    """Uniform and chosen files on several draws of the calibration data: their scores, and means of them."""
    path, task = model.file(places), model.task(places)
    reference = run_all(path, task.test, task.reduce)
    base = Recipe(target="ort", quantize_embeddings=model.name in WITH_EMBEDDINGS)
    print(f"\n{model.name}, {draws} draws\n", flush=True)
    found: dict[str, list[dict[str, float]]] = {}
    ratios = []
    for draw in range(draws):
        kept = drawn(task.calibration, draw, draws)
        job, sizes = Job(path, replace(task, calibration=kept), reference), {}
        for width in ("int3", "int4"):
            recipe = replace(base, weights=width)  # pyright: ignore[reportArgumentType]
            sizes[width], scores, seconds = job.file(open_run(path, kept, recipe), recipe, recipe)
            found.setdefault(f"uniform {width}", []).append(scores)
        started = time.monotonic()
        posed = pose_problem(open_run(path, kept, base), base, silent)
        ratios.append(time.monotonic() - started)
        for width, share in (("int4", 1.0), ("int4", SHARES[-1]), ("int3", 1.0)):
            scores, spent = allocated(job, posed, "measured", (sizes[width], share, width), model)
            ratios[-1] += spent if (width, share) == ("int4", 1.0) else 0.0
            if scores:  # the budget could be kept
                found.setdefault(f"chosen, {share:.0%} of {width}", []).append(scores)
        ratios[-1] /= seconds
    names = list(found["uniform int4"][0])
    print(f"\n| storage | {' | '.join(names)} | {model.primary} of each draw |")
    print(f"| --- | {' | '.join('---:' for _ in names)} | --- |")
    for what, each in found.items():
        means = [f"{np.exp(np.mean(np.log([max(one[n], 1e-9) for one in each]))):.4g}" for n in names]
        print(f"| {what} | {' | '.join(means)} | {', '.join(f'{one[model.primary]:.4g}' for one in each)} |")
    print(f"\ncurves, prices and choice take {np.mean(ratios):.2f}x of what quantizing takes", flush=True)


def allocated(
    job: Job, posed: tuple[Problem, Bed], by: str, wanted: tuple[int, float, str], model: RealModel
) -> tuple[dict[str, float], float]:
    """Scores of the file that is chosen within a share of a size, told; and the seconds that caution took."""
    (problem, bed), (whole, share, width) = posed, wanted
    asked = replace(problem, recipe=replace(problem.recipe, target_size=f"{int(share * whole)}B"))
    limits, started = limits_of(asked), time.monotonic()
    label = f"by {by}, {share:.0%} of {width}"
    try:
        if by == "measured":
            asked, _ = with_caution(asked, bed, limits)
        spent = time.monotonic() - started
        recipe = fitted(ranked(asked, by), limits, job.path).recipe
    except ComqError as error:
        print(f"| {label} | {error.what} | | |", flush=True)
        return {}, 0.0
    opened = open_run(job.path, job.task.calibration, recipe)
    size, scores, _ = job.file(opened, recipe, asked.recipe)
    tell(label, size, scores, model)
    return scores, spent


def tell(what: str, size: int, scores: dict[str, float], model: RealModel) -> None:
    task = f"{scores[model.task_score]:.4g}" if model.task_score in scores else "-"
    print(f"| {what} | {size:,} | {scores[model.primary]:.4g} | {task} |", flush=True)


def drawn(calibration: list, draw: int, draws: int) -> list:
    """The calibration data without one batch in so many, another one each time."""
    return [feed for at, feed in enumerate(calibration) if at % max(draws, 2) != draw or draws == 1]


def each_model(
    described: str | None,
    models: str,
    draws: tuple[int, str],
    bench: Callable[[RealModel, Places, int], None],
) -> None:
    """Read the flags and run `bench` of each model; `draws` is the default of that flag, and what it says."""
    parser = argparse.ArgumentParser(
        description=described, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=models)
    parser.add_argument("--draws", type=int, default=draws[0], help=draws[1])
    parser.add_argument("--limit", type=int, help="test samples; for a quick look only")
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="exported models")
    parser.add_argument("--vit", help="folder(s) with vit_cifar10.onnx and cifar10_slice.npz")
    parser.add_argument("--sts", type=Path, help="CSV of sentence pairs and scores, for MiniLM's task score")
    args = parser.parse_args()
    for model in models_of(args.models):
        try:
            bench(model, Places(args.cache, args.vit, args.sts, args.limit), args.draws)
        except UnavailableError as reason:
            print(f"{model.name}: skipped, {reason}")


def main() -> None:
    each_model(
        __doc__,
        "ocr-rec,minilm,efficientnet-lite0",
        (0, "uniform and chosen alone, so many times"),
        lambda model, places, draws: scatter(model, places, draws) if draws else bench(model, places),
    )


if __name__ == "__main__":
    main()
