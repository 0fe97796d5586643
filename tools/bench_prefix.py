"""What later layers make up for, and whether prices that know it choose better networks.

Layers that are solved one after the other aim at the float network's outputs, so those behind make up for
part of an error. Here uniform int4 is solved in sequence on half of the samples, and on the other half the
outputs are compared behind each of its prefixes, all behind them still float. With ``P_l`` the error behind
l layers and ``E_l`` that of layer l alone, layer l leaves ``(P_l - E_l) / P_{l-1}`` of the errors before it;
an error comes out times the product over all layers behind. "refined" are the files that are chosen by
prices times that, on several draws of the calibration data, beside those chosen by the prices alone; neither
with caution.

    python tools/bench_prefix.py --models ocr-rec,efficientnet-lite0 --draws 3
"""

from dataclasses import replace
from itertools import islice

import numpy as np
from bench_budgets import WITH_EMBEDDINGS, Job, drawn, each_model
from zoo.model import Places, RealModel
from zoo.runner import run_all

from comq_onnx.allocate.distortion import noise
from comq_onnx.budgeting import fitted
from comq_onnx.planning import Opened, open_run, silent
from comq_onnx.pricing import Bed, with_unlike_halves
from comq_onnx.recipe import Recipe
from comq_onnx.sequential import march
from comq_onnx.stakes import Problem, limits_of, pose_problem, uniform_effect

SHARES = (1.0, 0.85)
LEFT = 0.1
"""Least part of ``P_l`` that is taken to be what was there before layer l"""


def first_half(opened: Opened, recipe: Recipe) -> Opened:
    """The run on the samples that curves see."""
    whole = with_unlike_halves(opened, recipe).calibration
    kept = list(islice(whole.batches(), whole.batch_count // 2))
    samples = sum(whole.entries(batch) for batch in kept)
    return replace(
        opened, calibration=replace(whole, make=lambda: iter(kept), batch_count=len(kept), samples=samples)
    )


def prefixes(opened: Opened, problem: Problem, bed: Bed) -> np.ndarray:
    """Squared relative error of the outputs where so many layers are quantized, from one on."""
    solutions = march(first_half(opened, problem.recipe), problem.recipe).solutions
    found, fed = [], {}
    for one in problem.priced:
        fed |= bed.network.switch({one.layer.name: solutions[one.layer.name]})
        errors = [noise(truth, bed.network.run_with(batch, fed), bed.what) for batch, truth in bed.samples]
        found.append(float(np.exp(errors).mean()))
    return np.array(found)


def retained(behind: np.ndarray, own: np.ndarray) -> np.ndarray:
    """For each layer, the part of its error that comes out: no less, the later it is made."""
    left = np.maximum(behind[1:] - own[1:], LEFT * behind[1:]) / behind[:-1]
    product = np.append(np.cumprod(left[::-1])[::-1], 1.0)
    return np.minimum.accumulate(np.minimum(product, 1.0)[::-1])[::-1]


def refined(problem: Problem, parts: np.ndarray) -> Problem:
    """The problem whose effects are those of errors of which such a part comes out, by layer."""
    priced = []
    for one, part in zip(problem.priced, parts, strict=True):
        candidates = tuple(replace(c, effect=float(part) * c.effect) for c in one.candidates)
        priced.append(replace(one, candidates=candidates))
    return replace(problem, priced=priced)


def bench(model: RealModel, places: Places, draws: int) -> None:
    path, task = model.file(places), model.task(places)
    reference = run_all(path, task.test, task.reduce)
    base = Recipe(target="ort", quantize_embeddings=model.name in WITH_EMBEDDINGS)
    print(f"\n{model.name}\n\n| draw | storage | {model.primary} | rel. error % | predicted |", flush=True)
    print("| ---: | --- | ---: | ---: | ---: |", flush=True)
    gains = []
    for draw in range(draws):
        kept = drawn(task.calibration, draw, draws)
        job, opened = Job(path, replace(task, calibration=kept), reference), open_run(path, kept, base)
        size, _, _ = job.file(opened, base, base)
        problem, bed = pose_problem(opened, base, silent)
        behind = prefixes(opened, problem, bed)
        own = np.array([candidate.effect for candidate in problem.uniform])
        comes_out = retained(behind, own)
        knowing = refined(problem, comes_out)
        for share in SHARES:
            scored = [row(job, asked, share * size) for asked in (problem, knowing)]
            for name, (scores, effect) in zip(("by price", "refined"), scored, strict=True):
                told = f"{scores[model.primary]:.4g} | {scores['rel. error %']:.4g} | {effect:.4g}"
                print(f"| {draw} | {name}, {share:.0%} | {told} |", flush=True)
            gains.append([np.log(a / b) for a, b in zip(*(s.values() for s, _ in scored), strict=True)])
        parts = comes_out[:: max(1, len(own) // 8)]
        print(f"part that comes out: {', '.join(f'{part:.2g}' for part in parts)}")
        total = f"{behind[-1]:.3g}; sum of effects {uniform_effect(problem):.3g}, refined"
        print(f"error of uniform int4 on the other half: {total} {uniform_effect(knowing):.3g}\n", flush=True)
    names = dict(zip(scored[0][0], np.exp(np.mean(gains, axis=0)), strict=True))
    print(f"by price over refined, geometric means: {', '.join(f'{n} {r:.3g}' for n, r in names.items())}")


def row(job: Job, problem: Problem, size: float) -> tuple[dict[str, float], float]:
    """Scores of the file of this size that prices choose, and the effect that they tell."""
    asked = replace(problem, recipe=replace(problem.recipe, target_size=f"{int(size)}B"))
    made = fitted(asked, limits_of(asked), job.path)
    opened = open_run(job.path, job.task.calibration, made.recipe)
    _, scores, _ = job.file(opened, made.recipe, asked.recipe)
    return scores, problem.effect(made.choice)


def main() -> None:
    each_model(__doc__, "ocr-rec,efficientnet-lite0", (3, "of the calibration data"), bench)


if __name__ == "__main__":
    main()
