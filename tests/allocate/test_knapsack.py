"""The integer program against brute force, and what it may never do."""

from itertools import product

import numpy as np
import pytest

from comq_onnx.allocate.knapsack import Limit, choose


def problem(seed: int, items: int, options: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Costs that fall as sizes grow, over some orders of magnitude, as losses and bytes do."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, options + 1, items)
    sizes = [np.sort(rng.integers(1, 10**6, n)).astype(float) for n in counts]
    costs = [np.sort(10.0 ** rng.uniform(-8, 0, n))[::-1].copy() for n in counts]
    return costs, sizes


def brute_force(costs: list[np.ndarray], limits: list[Limit]) -> float | None:
    best = None
    for choice in product(*(range(len(cost)) for cost in costs)):
        if all(limit.holds(choice) for limit in limits):
            total = sum(cost[pick] for cost, pick in zip(costs, choice, strict=True))
            best = total if best is None else min(best, total)
    return best


@pytest.mark.parametrize("seed", range(140))
def test_small_problems_are_solved_as_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    costs, sizes = problem(seed, int(rng.integers(1, 7)), 5)
    least, most = sum(s.min() for s in sizes), sum(s.max() for s in sizes)
    limit = Limit(sizes, least + rng.uniform(-0.05, 1.0) * (most - least))
    choice, best = choose(costs, [limit]), brute_force(costs, [limit])
    assert (choice is None) == (best is None)
    if choice is not None:
        assert limit.holds(choice)
        found = sum(cost[pick] for cost, pick in zip(costs, choice, strict=True))
        assert found == pytest.approx(best, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_large_problems_never_exceed_their_budget(seed: int) -> None:
    rng = np.random.default_rng(2000 + seed)
    costs, sizes = problem(seed, int(rng.integers(20, 120)), 8)
    least, most = sum(s.min() for s in sizes), sum(s.max() for s in sizes)
    limit = Limit(sizes, float(np.floor(least + rng.uniform(0.0, 1.0) * (most - least))))
    choice = choose(costs, [limit])
    assert choice is not None
    assert limit.taken(choice) <= limit.budget
    assert choose(costs, [limit]) == choice


@pytest.mark.parametrize("seed", range(20))
def test_two_budgets_are_kept_together(seed: int) -> None:
    rng = np.random.default_rng(3000 + seed)
    costs, sizes = problem(seed, 5, 4)
    seconds = [rng.uniform(1e-6, 1e-3, len(size)) for size in sizes]
    limits = [Limit(each, 0.6 * sum(e.max() for e in each)) for each in (sizes, seconds)]
    choice, best = choose(costs, limits), brute_force(costs, limits)
    assert (choice is None) == (best is None)
    if choice is not None:
        assert all(limit.holds(choice) for limit in limits)
        found = sum(cost[pick] for cost, pick in zip(costs, choice, strict=True))
        assert found == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_the_budget_that_just_fits_is_used_up() -> None:
    costs, sizes = [np.array([3.0, 1.0])] * 3, [np.array([1.0, 2.0])] * 3
    assert choose(costs, [Limit(sizes, 6.0)]) == [1, 1, 1]
    assert choose(costs, [Limit(sizes, 2.999)]) is None
