"""``--max-drop``: the smallest file that is hardly worse than the float model.

Prices order the storages (`budgeting`); how far they may be taken is found by trying: networks are quantized
in full, smaller or larger ones, and each is scored. What judges takes no part in the solving: a quarter of
the calibration data, or the user's own metric.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from comq_onnx.allocate.allocation import Allocation
from comq_onnx.allocate.knapsack import Limit, check_solver, choose
from comq_onnx.budget import parse_drop
from comq_onnx.budgeting import (
    NO_BUDGET,
    Model,
    Problem,
    account_of,
    bytes_of,
    pose_problem,
    uniform_effect,
)
from comq_onnx.errors import ComqError
from comq_onnx.planning import Opened, Progress, describe, plan
from comq_onnx.pricing import Bed
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import split
from comq_onnx.run.session import SessionOptions, is_float, open_session, outputs_on
from comq_onnx.run.user_code import load_metric

FLAG = "--max-drop"
TRIES = 6
EVERY = 4
"""One batch in so many judges"""
FLOATS = ("float", "float16")
NEAR = 1.15
"""Ratio of the bounds on effects between which nothing is tried"""

Make = Callable[[Opened, Recipe], ModelProto]
"""Quantizes as planned"""


@dataclass(frozen=True)
class Judge:
    """How far a network is below the float one, and how far it may be."""

    drop: Callable[[ModelProto], float]
    limit: float
    said: str
    """What is measured, for the report"""


@dataclass(frozen=True)
class Try:
    """A network that was quantized and judged."""

    bound: float
    """On the sum of effects"""
    choice: list[int]
    opened: Opened
    recipe: Recipe
    size: int
    drop: float


def settle_drop(
    model: Model, opened: Opened, recipe: Recipe, progress: Progress, make: Make
) -> tuple[Opened, Recipe, Allocation]:
    """The smallest network within the recipe's `max_drop`: as planned, its recipe, and the account.

    ComqError where no network is within it.
    """
    check_solver()
    started = time.monotonic()
    judge, opened = judge_of(opened, recipe)
    problem, bed = pose_problem(opened, recipe, progress)
    tries: list[Try] = []

    def attempt(bound: float) -> Try:
        progress("try", len(tries), TRIES)
        tries.append(tried(model, problem, bound, (judge, make)))
        return tries[-1]

    search(attempt, problem, judge)
    progress("try", TRIES, TRIES)
    good = [one for one in tries if one.drop <= judge.limit]
    if not good:
        least = min(one.drop for one in tries)
        raise ComqError(
            f"no file is within it: the least drop found is {least:.3g}, and {judge.limit:.3g} is asked for",
            where=FLAG,
            fix="raise it, or keep layers float with --keep-float",
        )
    best = min(good, key=lambda one: one.size)
    told = account(problem, bed, best, (tries, judge))
    return best.opened, best.recipe, replace(told, seconds=time.monotonic() - started)


def judge_of(opened: Opened, recipe: Recipe) -> tuple[Judge, Opened]:
    """What judges, and the run without the data that this takes."""
    amount = parse_drop(recipe.max_drop)
    options = SessionOptions(threads=recipe.threads)
    if recipe.metric:
        metric = load_metric(recipe.metric)
        whole = metric(open_session(opened.plan.source, options).run)
        limit = amount.of(abs(whole))
        said = f"{recipe.metric} on {describe(opened.plan.source)} gives {whole:.6g}"
        return Judge(lambda made: whole - metric(open_session(made, options).run), limit, said), opened
    if opened.calibration.synthetic or opened.calibration.batch_count < 2 * EVERY:
        raise ComqError(
            f"a quarter of the calibration data judges, and there are not {2 * EVERY} batches of them",
            where=FLAG,
            fix="give more --calibration-data, or a --metric of your own",
        )
    kept, held = split(opened.calibration, EVERY)
    batches = list(held.batches())
    truth = outputs_on(open_session(opened.plan.source, options), batches)

    def drop(made: ModelProto) -> float:
        return unlike(truth, outputs_on(open_session(made, options), batches))

    said = f"Squared error of the outputs over their energy, on {held.samples} samples held out"
    return Judge(drop, amount.value, said), replace(opened, calibration=kept)


def unlike(truth: Sequence[Mapping[str, np.ndarray]], found: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Squared error over energy, all samples together; the mean over floating outputs, 1 if not finite."""
    parts = []
    for name in truth[0]:
        if not is_float(truth[0][name].dtype):
            continue
        pairs = [(np.float64(a[name]), np.float64(b[name])) for a, b in zip(truth, found, strict=True)]
        lost = sum(float(np.square(a - b).sum()) for a, b in pairs)
        energy = sum(float(np.square(a).sum()) for a, _ in pairs)
        parts.append(lost / energy if energy > 0 and np.isfinite(lost) else float(lost != 0))
    return float(np.mean(parts)) if parts else 0.0


def tried(model: Model, problem: Problem, bound: float, how: tuple[Judge, Make]) -> Try:
    """The smallest network whose effects sum up to `bound` at most, quantized and judged."""
    judge, make = how
    choice = choose(problem.sizes, [Limit(problem.costs, bound)])
    if choice is None:
        raise ValueError(f"no choice has effects of {bound} or less")
    final = replace(problem.recipe, rules=(*problem.rules(choice), *problem.recipe.rules), **NO_BUDGET)
    planned = plan(model, final, True)
    opened = replace(problem.opened, plan=planned)
    return Try(bound, choice, opened, final, bytes_of(planned, final), judge.drop(make(opened, final)))


def search(attempt: Callable[[float], Try], problem: Problem, judge: Judge) -> None:
    """Try bounds, from a guess on, until the limit lies between two near ones."""
    # All layers in their best codes: a file without any is no result.
    coded = [[c.effect for c in one.candidates if c.name not in FLOATS] for one in problem.priced]
    least = float(sum(min(effects) for effects in coded))
    smallest = float(
        sum(cost[size.argmin()] for cost, size in zip(problem.costs, problem.sizes, strict=True))
    )
    passed, failed = 0.0, np.inf
    bound = uniform_effect(problem) if problem.recipe.metric else judge.limit
    for _ in range(TRIES - 1):
        bound = float(np.clip(bound, least, smallest))
        last = attempt(bound)
        if last.drop <= judge.limit:
            passed = bound
        else:
            failed = bound
        if (passed and failed / passed < NEAR) or passed >= smallest or failed <= least:
            break
        bound = next_bound(last, judge.limit, (passed, failed))
    if not passed:
        attempt(least)


def next_bound(last: Try, limit: float, known: tuple[float, float]) -> float:
    """Between what passed and what failed; beyond them, in proportion to the drop."""
    passed, failed = known
    if passed and np.isfinite(failed):
        return float(np.sqrt(passed * failed))
    ratio = limit / last.drop if last.drop > 0 else np.inf
    return last.bound * float(np.clip(ratio, 2, 16) if passed else np.clip(0.8 * ratio, 1 / 64, 0.5))


def account(problem: Problem, bed: Bed, best: Try, found: tuple[list[Try], Judge]) -> Allocation:
    """What is told of the choice and of the networks that were tried."""
    tries, judge = found
    limits = [(FLAG, Limit(problem.costs, best.bound))]
    told = account_of(problem, bed, (best.choice, limits), best.size, best.recipe.rules)
    drops = ", ".join(f"{one.size:,} bytes: {one.drop:.3g}" for one in sorted(tries, key=lambda t: t.size))
    notes = (f"{judge.said}; a drop of {judge.limit:.3g} is allowed. Tried: {drops}.", *told.notes)
    worse = [one for one in tries if one.drop > judge.limit]
    more = "No smaller file was found to fail."
    if worse:
        near = max(worse, key=lambda one: one.size)
        more = f"The next file tried, of {near.size:,} bytes, drops by {near.drop:.3g}."
    return replace(told, notes=notes, next_percent=more)
