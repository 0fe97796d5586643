"""The knapsack on small problems of awkward numbers, against all choices there are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comq_onnx.allocate.knapsack import Limit, choose

NUMBER = st.sampled_from([0.0, 1.0, 2.0, 3.0, 7.0, 1e-6, 0.1, 1e6, 12345.0])


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[np.ndarray], list[Limit]]:
    """Costs, and one or two limits whose budgets are sums that some choice takes, or next to them."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    costs = [np.array([draw(NUMBER) for _ in range(n)]) for n in counts]
    limits = []
    for _ in range(draw(st.integers(1, 2))):
        sizes = [np.array([draw(NUMBER) for _ in range(n)]) for n in counts]
        taken = sum(float(size[draw(st.integers(0, len(size) - 1))]) for size in sizes)
        limits.append(Limit(sizes, taken * draw(st.sampled_from([1.0, 0.999, 1.001]))))
    return costs, limits


@settings(max_examples=150)
@given(problems())
def test_the_best_choice_is_found_and_no_budget_exceeded(
    problem: tuple[list[np.ndarray], list[Limit]],
) -> None:
    costs, limits = problem
    every = product(*(range(len(cost)) for cost in costs))
    fit = [choice for choice in every if all(limit.holds(choice) for limit in limits)]
    found = choose(costs, limits)
    if found is None:
        # A budget that is met to the last bit may be lost to the solver's tolerance, never one with room.
        roomy = [c for c in fit if all(x.taken(c) <= x.budget - 1e-5 * max(1.0, x.budget) for x in limits)]
        assert not roomy
        return
    assert all(limit.holds(found) for limit in limits)
    total = sum(float(cost[pick]) for cost, pick in zip(costs, found, strict=True))
    best = min(sum(float(cost[pick]) for cost, pick in zip(costs, c, strict=True)) for c in fit)
    assert total == pytest.approx(best, rel=1e-6, abs=1e-5)
    assert choose(costs, limits) == found
