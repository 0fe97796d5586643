"""Allocated bits beside uniform ones on real models, at equal size and smaller, and what prices are worth.

For each model: the file of uniform int4 (and int3, which has the same size: its codes lie in 4 bits) is
written and scored on test data. Then the allocator's file at the size of uniform int4 and at parts of it,
ranked by dual price; and, as ablations, ranked by layer loss alone, and by loss times the size. Every
file is solved in full.

    python tools/bench_budgets.py --models ocr-rec,minilm,efficientnet-lite0

Models and data come from installed packages; a model whose package is missing is skipped with the reason.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from zoo.catalogue import choose as models_of
from zoo.model import Places, RealModel, Task, UnavailableError
from zoo.runner import run_all

from comq_onnx import pipeline
from comq_onnx.allocate.knapsack import Limit, choose
from comq_onnx.graph.io import save
from comq_onnx.planning import Opened, open_run, silent
from comq_onnx.recipe import Recipe
from comq_onnx.stakes import NO_BUDGET, Problem, pose_problem, uniform_of

WITH_EMBEDDINGS = ("minilm", "minilm-dynamo")
SHARES = (1.0, 0.95, 0.85)


@dataclass(frozen=True)
class Job:
    """A model, its data, and the float outputs."""

    path: Path
    task: Task
    reference: list

    def file(self, opened: Opened, recipe: Recipe) -> tuple[int, dict[str, float], float]:
        """Bytes and scores of the file of this plan, and the seconds that quantizing took."""
        started = time.monotonic()
        solved = pipeline.solve_model(opened, recipe)
        outcome = pipeline.write(opened, solved, recipe)
        spent = time.monotonic() - started
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantized.onnx"
            save(outcome.model, path)
            outputs = run_all(path, self.task.test, self.task.reduce)
            return path.stat().st_size, self.task.score(self.reference, outputs), spent


def ranked(problem: Problem, by: str) -> list[np.ndarray]:
    """The costs of candidates: their effects by dual price, or what an ablation takes for them."""
    if by == "price":
        return problem.costs
    losses = [np.array([c.loss for c in one.candidates]) for one in problem.priced]
    if by == "loss":
        return losses
    return [loss * np.prod(one.layer.layout.shape) for loss, one in zip(losses, problem.priced, strict=True)]


def bench(model: RealModel, places: Places) -> None:
    path, task = model.file(places), model.task(places)
    job = Job(path, task, run_all(path, task.test, task.reduce))
    base = Recipe(target="ort", quantize_embeddings=model.name in WITH_EMBEDDINGS)
    print(f"\n{model.name}\n\n| storage | bytes | {model.primary} | {model.task_score} |", flush=True)
    print("| --- | ---: | ---: | ---: |", flush=True)
    opened, seconds = open_run(path, task.calibration, base), 0.0
    for width in ("int4", "int3"):
        recipe = replace(base, weights=width)  # pyright: ignore[reportArgumentType]
        size, scores, seconds = job.file(open_run(path, task.calibration, recipe), recipe)
        tell(f"uniform {width}", size, scores, model)
    started = time.monotonic()
    problem, _ = pose_problem(opened, base, silent)
    posing = time.monotonic() - started
    grids = opened.plan.grids
    uniform = sum(uniform_of(one, str(grids[one.layer.name])).bytes for one in problem.priced)
    for by in ("price", "loss", "size"):
        for share in SHARES if by == "price" else SHARES[:1]:
            limit = Limit(problem.sizes, share * (uniform + problem.fixed) - problem.fixed)
            choice = choose(ranked(problem, by), [limit])
            if choice is None:
                print(f"| by {by}, {share:.0%} | none is so small | | |", flush=True)
                continue
            recipe = replace(base, rules=problem.rules(choice), **NO_BUDGET)
            size, scores, _ = job.file(open_run(path, task.calibration, recipe), recipe)
            tell(f"by {by}, {share:.0%}", size, scores, model)
    print(f"\ncurves and prices take {posing / seconds:.2f}x of what quantizing takes", flush=True)


def tell(what: str, size: int, scores: dict[str, float], model: RealModel) -> None:
    task = f"{scores[model.task_score]:.4g}" if model.task_score in scores else "-"
    print(f"| {what} | {size:,} | {scores[model.primary]:.4g} | {task} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="ocr-rec,minilm,efficientnet-lite0")
    parser.add_argument("--limit", type=int, help="test samples; for a quick look only")
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="exported models")
    parser.add_argument("--vit", help="folder(s) with vit_cifar10.onnx and cifar10_slice.npz")
    parser.add_argument("--sts", type=Path, help="CSV of sentence pairs and scores, for MiniLM's task score")
    args = parser.parse_args()
    for model in models_of(args.models):
        try:
            bench(model, Places(args.cache, args.vit, args.sts, args.limit))
        except UnavailableError as reason:
            print(f"{model.name}: skipped, {reason}")


if __name__ == "__main__":
    main()
