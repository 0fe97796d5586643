"""The multiple-choice knapsack: one option for each item, least cost, no budget exceeded. Exact.

The integer program is solved to optimality by HiGHS (`scipy.optimize.milp`), which is deterministic on one
thread; what it returns is summed again in exact numbers, because a solver's constraints have a tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.muted import OUTPUT, muted

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

    def may_be(self, item: int) -> np.ndarray:
        """Which options of an item fit beside the smallest of all others."""
        size = self.sizes[item]
        return size <= (self.budget - self.least + size.min()) * (1 + 1e-12)

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
    # What can never be chosen would only make all else small beside it, below the solver's tolerance.
    open_ = [np.logical_and.reduce([limit.may_be(i) for limit in limits]) for i in range(len(costs))]
    open_ = [options & ~_outdone(costs, limits, i) for i, options in enumerate(open_)]
    if not all(options.any() for options in open_):
        return None
    budgets, cuts = [limit.budget for limit in limits], []
    for attempt in range(2 * TRIES):
        choice = _program(costs, limits, budgets, (np.concatenate(open_), cuts))
        if choice is None:
            return None
        exceeded = [not limit.holds(choice) for limit in limits]
        if not any(exceeded):
            return choice
        if attempt < TRIES:
            cuts += [_cover(limit, choice) for limit, over in zip(limits, exceeded, strict=True) if over]
            continue
        budgets = [
            budget - max(TIGHTER * limit.budget, 1e-12) if over else budget
            for budget, limit, over in zip(budgets, limits, exceeded, strict=True)
        ]
    return None


def _outdone(costs: Sequence[np.ndarray], limits: Sequence[Limit], item: int) -> np.ndarray:
    """Which options of an item cost and take no less than another one; of two alike, the second."""
    terms = np.stack([costs[item], *(limit.sizes[item] for limit in limits)])
    # [i, j]: i costs and takes no more than j
    no_more = np.logical_and.reduce(terms[:, :, None] <= terms[:, None, :], axis=0)
    first = np.triu(np.ones(no_more.shape, dtype=bool), 1)
    return np.logical_or.reduce(no_more & (~no_more.T | first), axis=0)


Cut = tuple[np.ndarray, int]
"""Options, all items' in a row, and how many of them may be chosen together"""


def _cover(limit: Limit, choice: Sequence[int]) -> Cut:
    """What excludes a choice that exceeds a limit, and all that take as much of it: a cover inequality.

    It is exact where a budget lowered by the solver's tolerance might lose choices that just fit.
    """
    over = [size[pick] > size.min() for size, pick in zip(limit.sizes, choice, strict=True)]
    parts = [
        (size >= size[pick]) & above for size, pick, above in zip(limit.sizes, choice, over, strict=True)
    ]
    return np.concatenate(parts), sum(over) - 1


def _program(
    costs: Sequence[np.ndarray],
    limits: Sequence[Limit],
    budgets: Sequence[float],
    rules: tuple[np.ndarray, Sequence[Cut]],
) -> list[int] | None:
    """What the solver finds; `rules` are the options that may be chosen, and which not together."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    open_, cuts = rules
    ends = np.cumsum([len(cost) for cost in costs])
    items = np.repeat(np.arange(len(costs)), np.diff(ends, prepend=0))
    flat = np.concatenate(costs)
    one_each = csr_matrix((np.ones(len(items)), (items, np.arange(len(items)))))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for limit, budget in zip(limits, budgets, strict=True):
        sizes = np.where(open_, np.concatenate(limit.sizes), 0.0)
        unit = max(float(sizes.max()), 1e-300)
        constraints.append(LinearConstraint(csr_matrix(sizes / unit), -np.inf, budget / unit))
    constraints += [LinearConstraint(csr_matrix(row * 1.0), -np.inf, float(most)) for row, most in cuts]
    top = float(flat.max())
    with muted(OUTPUT):
        found = milp(
            flat * (LARGEST_COST / top) if top > 0 else flat,
            constraints=constraints,
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, open_.astype(float)),  # pyright: ignore[reportArgumentType]
            # Presolving loses the optimum of some problems whose sizes lie six orders of magnitude apart.
            options={"mip_rel_gap": 0.0, "presolve": False},
        )
    if found.x is None:
        return None
    return [int(part.argmax()) for part in np.split(found.x, ends[:-1])]
