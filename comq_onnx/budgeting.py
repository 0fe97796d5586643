"""Budgets: which layer has how many bits, so that the network's error is least and the budget is kept.

An integer program (`allocate.knapsack`) chooses by what was measured (`stakes`). The choice becomes rules,
and the plan is made again with these: the run that follows knows nothing of budgets.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from comq_onnx.accounting import account_of
from comq_onnx.allocate.allocation import Allocation
from comq_onnx.allocate.knapsack import Limit, check_solver
from comq_onnx.caution import told, with_caution
from comq_onnx.errors import ComqError
from comq_onnx.latency.measure import FIX, latency_refusal
from comq_onnx.planning import Opened, Plan, Progress, open_data, plan
from comq_onnx.recipe import Recipe
from comq_onnx.smoothing import resmoothed
from comq_onnx.stakes import (
    NO_BUDGET,
    SIZE,
    Model,
    Problem,
    bytes_of,
    check_anything,
    excess_of,
    limits_of,
    pose_problem,
    within,
)

TRIES = 10


@dataclass(frozen=True)
class Fitted:
    """A choice, and the file that comes of it."""

    choice: Sequence[int]
    limits: Sequence[tuple[str, Limit]]
    """As tightened until the file kept them"""
    plan: Plan
    recipe: Recipe
    """Its rules are the choice"""
    size: int
    """Of the file"""


def settle_budget(
    model: Model, data: Any, opened: Opened, recipe: Recipe, progress: Progress
) -> tuple[Opened, Recipe, Allocation]:
    """Choose storages within the recipe's budget: the run as planned with them, its recipe, and the account.

    ComqError where the budget cannot be kept, and by how much.
    """
    started = time.monotonic()
    check_solver()
    if recipe.target_latency and (why := latency_refusal(recipe)):
        raise ComqError(why, where="--target-latency", fix=FIX)
    problem, bed = pose_problem(opened, recipe, progress)
    limits = limits_of(problem)
    problem, trials = with_caution(problem, bed, limits)
    made = fitted(problem, limits, model)
    account = account_of(problem, bed, (made.choice, made.limits), made.size, made.recipe.rules)
    notes = (*told(trials, problem.caution), *account.notes)
    planned = open_data(made.plan, data, made.recipe)
    return planned, made.recipe, replace(account, notes=notes, seconds=time.monotonic() - started)


def fitted(problem: Problem, limits: Sequence[tuple[str, Limit]], model: Model) -> Fitted:
    """The best choice whose file, as it would be written, keeps the size that the recipe asks for.

    ComqError where there is none.
    """
    recipe = problem.recipe
    for _ in range(TRIES):
        choice = within(problem, limits)
        check_anything(problem, choice)
        final = replace(recipe, rules=(*problem.rules(choice), *recipe.rules), **NO_BUDGET)
        planned = plan(model, final, not problem.opened.calibration.synthetic)
        planned = resmoothed(planned, problem.opened, final)
        size = bytes_of(planned, final)
        excess = excess_of(problem, size)
        if excess <= 0:
            return Fitted(choice, limits, planned, final, size)
        # Names of nodes and shapes take bytes too, which no sum over layers knows. The choice may leave part
        # of the budget: only below what it takes is there another one.
        limits = [
            (flag, replace(limit, budget=limit.taken(choice) - excess) if flag == SIZE else limit)
            for flag, limit in limits
        ]
    raise ComqError("the file stays larger than asked for", where=SIZE, fix="ask for a larger one")
