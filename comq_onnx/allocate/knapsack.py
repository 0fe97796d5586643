"""The multiple-choice knapsack: one option for each item, least cost, no budget exceeded. Exact.

The integer program is solved to optimality by HiGHS (`scipy.optimize.milp`), which is deterministic on one
thread; what it returns is summed again in exact numbers, because a solver's constraints have a tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from comq_onnx.errors import ComqError

TIGHTER = 1e-6
"""Part of a budget that is taken off where a solution exceeds it by the solver's tolerance"""
TRIES = 20
LARGEST_COST = 1e6
"""Costs are scaled to it: HiGHS stops at an absolute gap of 1e-6"""


@dataclass(frozen=True)
class Limit:
    """One budget: what each option of each item takes of it, and how much there is."""

    sizes: Sequence[np.ndarray]
    """By item; non-negative"""
    budget: float

    @property
    def least(self) -> float:
        """The sum of the smallest options."""
        return float(sum(size.min() for size in self.sizes))

    def taken(self, choice: Sequence[int]) -> float:
        return float(sum(size[pick] for size, pick in zip(self.sizes, choice, strict=True)))

    def holds(self, choice: Sequence[int]) -> bool:
        return self.taken(choice) <= self.budget


def check_solver() -> None:
    """ComqError where SciPy, whose integer programs `choose` uses, is not installed."""
    if find_spec("scipy") is None:
        raise ComqError(
            "the integer program of a budget needs SciPy", where="budget", fix="install the extra cpu"
        )


def choose(costs: Sequence[np.ndarray], limits: Sequence[Limit]) -> list[int] | None:
    """The option of each item such that the sum of costs is least within all limits; None if none fits.

    `costs` are non-negative and finite, an array for each item. SciPy is needed (`check_solver`).
    """
    budgets = [limit.budget for limit in limits]
    for _ in range(TRIES):
        choice = _program(costs, limits, budgets)
        if choice is None or all(limit.holds(choice) for limit in limits):
            return choice
        budgets = [
            budget if limit.holds(choice) else budget - max(TIGHTER * limit.budget, 1e-12)
            for budget, limit in zip(budgets, limits, strict=True)
        ]
    return None


def _program(
    costs: Sequence[np.ndarray], limits: Sequence[Limit], budgets: Sequence[float]
) -> list[int] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    ends = np.cumsum([len(cost) for cost in costs])
    items = np.repeat(np.arange(len(costs)), np.diff(ends, prepend=0))
    flat = np.concatenate(costs)
    one_each = csr_matrix((np.ones(len(items)), (items, np.arange(len(items)))))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for limit, budget in zip(limits, budgets, strict=True):
        sizes = np.concatenate(limit.sizes)
        unit = max(float(sizes.max()), 1e-300)
        constraints.append(LinearConstraint(csr_matrix(sizes / unit), -np.inf, budget / unit))
    top = float(flat.max())
    found = milp(
        flat * (LARGEST_COST / top) if top > 0 else flat,
        constraints=constraints,
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    return [int(part.argmax()) for part in np.split(found.x, ends[:-1])]
