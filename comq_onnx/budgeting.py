"""Budgets: which layer has how many bits, so that the network's error is least and the budget is kept.

An integer program (`allocate.knapsack`) chooses by what was measured (`stakes`). The choice becomes rules,
and the plan is made again with these: the run that follows knows nothing of budgets.
"""

import time
from dataclasses import replace
from typing import Any

from comq_onnx.accounting import account_of
from comq_onnx.allocate.allocation import Allocation
from comq_onnx.allocate.knapsack import check_solver
from comq_onnx.errors import ComqError
from comq_onnx.latency.measure import FIX, latency_refusal
from comq_onnx.planning import Opened, Progress, open_data, plan
from comq_onnx.recipe import Recipe
from comq_onnx.stakes import (
    NO_BUDGET,
    SIZE,
    Model,
    bytes_of,
    check_anything,
    excess_of,
    limits_of,
    pose_problem,
    within,
)

TRIES = 10


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
    for _ in range(TRIES):
        choice = within(problem, limits)
        check_anything(problem, choice)
        final = replace(recipe, rules=(*problem.rules(choice), *recipe.rules), **NO_BUDGET)
        planned = plan(model, final, not opened.calibration.synthetic)
        size = bytes_of(planned, final)
        excess = excess_of(problem, size)
        if excess <= 0:
            break
        # Names of nodes and shapes take bytes too, which no sum over layers knows.
        limits = [
            (flag, replace(limit, budget=limit.budget - excess)) if flag == SIZE else (flag, limit)
            for flag, limit in limits
        ]
    else:
        raise ComqError("the file stays larger than asked for", where=SIZE, fix="ask for a larger one")
    account = account_of(problem, bed, (choice, limits), size, final.rules)
    planned = open_data(planned, data, final)
    return planned, final, replace(account, seconds=time.monotonic() - started)
