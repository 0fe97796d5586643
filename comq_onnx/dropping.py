"""``--max-drop``: the smallest file that is hardly worse than the float model.

Prices order the storages (`stakes`); how far they may be taken is found by trying: networks are quantized
in full, smaller or larger ones, and each is scored. What judges takes no part in the solving: a quarter of
the calibration data, or the user's own metric.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from comq_onnx.accounting import account_of
from comq_onnx.allocate.allocation import Allocation
from comq_onnx.allocate.knapsack import Limit, check_solver, choose
from comq_onnx.budget import parse_drop
from comq_onnx.errors import ComqError
from comq_onnx.evaluate.agreement import deviation
from comq_onnx.planning import Opened, Progress, describe, plan
from comq_onnx.pricing import Bed
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import split
from comq_onnx.run.session import SessionOptions, is_float, open_session, outputs_on
from comq_onnx.run.user_code import load_metric
from comq_onnx.smoothing import resmoothed, smoothed_run
from comq_onnx.stakes import NO_BUDGET, Problem, bytes_of, pose_problem, uniform_effect
from comq_onnx.writing import Made

FLAG = "--max-drop"
TRIES = 6
EVERY = 4
"""One batch in so many judges"""
FLOATS = ("float", "float16")
NEAR = 1.15
"""Ratio of the bounds on effects between which nothing is tried"""

Make = Callable[[Opened, Recipe], Made]
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
    made: Made
    size: int
    drop: float


class Trials:
    """Networks tried one after the other; of those within the limit the smallest is kept whole."""

    def __init__(self, problem: Problem, judge: Judge, make: Make, told: Callable[[int], None]) -> None:
        self.problem, self.judge, self._make, self._told = problem, judge, make, told
        self.drops: list[tuple[int, float]] = []
        """Bytes and drop of each"""
        self.best: Try | None = None

    def attempt(self, bound: float) -> float:
        """Quantize the smallest network whose effects sum up to `bound` at most; its drop."""
        self._told(len(self.drops))
        found = tried(self.problem, bound, (self.judge, self._make))
        self.drops.append((found.size, found.drop))
        if found.drop <= self.judge.limit and (self.best is None or found.size < self.best.size):
            self.best = found
        return found.drop


def settle_drop(opened: Opened, recipe: Recipe, progress: Progress, make: Make) -> tuple[Made, Allocation]:
    """The smallest network within the recipe's `max_drop`, and the account of how it was found.

    ComqError where no network is within it.
    """
    check_solver()
    started = time.monotonic()
    judge, opened = judge_of(opened, recipe)
    opened = smoothed_run(opened, recipe, progress)
    problem, bed = pose_problem(opened, recipe, progress)
    trials = Trials(problem, judge, make, lambda done: progress("try", done, TRIES))
    search(trials)
    progress("try", TRIES, TRIES)
    if trials.best is None:
        least = min(drop for _, drop in trials.drops)
        raise ComqError(
            f"no file is within it: the least drop found is {least:.3g}, and {judge.limit:.3g} is asked for",
            where=FLAG,
            fix="raise it, or keep layers float with --keep-float",
        )
    told = account(trials, trials.best, bed)
    return trials.best.made, replace(told, seconds=time.monotonic() - started)


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


def unlike(truth: list[dict[str, np.ndarray]], found: list[dict[str, np.ndarray]]) -> float:
    """Squared error over energy, all samples together; the mean over floating outputs."""
    names = [name for name, value in truth[0].items() if is_float(value.dtype)]
    return float(np.mean([deviation(truth, found, name) ** 2 for name in names])) if names else 0.0


def tried(problem: Problem, bound: float, how: tuple[Judge, Make]) -> Try:
    """The smallest network whose effects sum up to `bound` at most, quantized and judged."""
    judge, make = how
    # The solver has a tolerance: at the least possible bound it may find nothing.
    choice = choose(problem.sizes, [Limit(problem.costs, bound)]) or best_codes(problem)
    final = replace(problem.recipe, rules=(*problem.rules(choice), *problem.recipe.rules), **NO_BUDGET)
    before = problem.opened
    planned = plan(before.plan.source, final, not before.calibration.synthetic)
    opened = replace(before, plan=resmoothed(planned, before, final))
    made = make(opened, final)
    return Try(bound, choice, made, bytes_of(opened.plan, final), judge.drop(made.outcome.model))


def best_codes(problem: Problem) -> list[int]:
    """All layers in their codes of least effect: a file without any codes is no result."""
    return [
        min((c.effect, at) for at, c in enumerate(one.candidates) if c.name not in FLOATS)[1]
        for one in problem.priced
    ]


def search(trials: Trials) -> None:
    """Try bounds, from a guess on, until the limit lies between two near ones."""
    problem, limit = trials.problem, trials.judge.limit
    least = problem.effect(best_codes(problem))
    smallest = problem.effect([int(size.argmin()) for size in problem.sizes])
    passed, failed = 0.0, np.inf
    bound = uniform_effect(problem) if problem.recipe.metric else limit
    for _ in range(TRIES - 1):
        bound = float(np.clip(bound, least, smallest))
        drop = trials.attempt(bound)
        if drop <= limit:
            passed = bound
        else:
            failed = bound
        if (passed and failed / passed < NEAR) or passed >= smallest or failed <= least:
            return
        bound = next_bound((bound, drop), limit, (passed, failed))
    if not passed:
        trials.attempt(least)


def next_bound(last: tuple[float, float], limit: float, known: tuple[float, float]) -> float:
    """Between what passed and what failed; beyond them, in proportion to the last bound's drop."""
    (bound, drop), (passed, failed) = last, known
    if passed and np.isfinite(failed):
        return float(np.sqrt(passed * failed))
    ratio = limit / drop if drop > 0 else np.inf
    return bound * float(np.clip(ratio, 2, 16) if passed else np.clip(0.8 * ratio, 1 / 64, 0.5))


def account(trials: Trials, best: Try, bed: Bed) -> Allocation:
    """What is told of the choice and of the networks that were tried."""
    judge, problem = trials.judge, trials.problem
    limits = [(FLAG, Limit(problem.costs, best.bound))]
    told = account_of(problem, bed, (best.choice, limits), best.size, best.made.recipe.rules)
    drops = ", ".join(f"{size:,} bytes: {drop:.3g}" for size, drop in sorted(trials.drops))
    notes = (f"{judge.said}; a drop of {judge.limit:.3g} is allowed. Tried: {drops}.", *told.notes)
    worse = [(size, drop) for size, drop in trials.drops if drop > judge.limit]
    more = "No smaller file was found to fail."
    if worse:
        size, drop = max(worse)
        more = f"The next file tried, of {size:,} bytes, drops by {drop:.3g}."
    return replace(told, notes=notes, next_percent=more)
