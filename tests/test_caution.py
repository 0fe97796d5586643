"""The caution with which prices are taken: chosen by measuring, and never what was measured worse."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from comq_onnx import budgeting, caution, stakes
from comq_onnx.allocate.allocation import Candidate, Point
from comq_onnx.allocate.knapsack import Limit
from comq_onnx.caution import told, with_caution
from comq_onnx.recipe import Recipe
from comq_onnx.stakes import SIZE, Problem

NARROW, SAME, WIDE = 2.0, 4.0, 8.0


def layer(name: str, narrow: float, same: float) -> SimpleNamespace:
    """A layer whose 2- and 4-bit codes have these effects, its 8-bit ones none."""
    sizes = {"int2": NARROW, "int4": SAME, "int8": WIDE}
    effects = {"int2": narrow, "int4": same, "int8": 0.0}
    candidates = tuple(Candidate(n, n, int(size), effects[n], effects[n]) for n, size in sizes.items())
    return SimpleNamespace(
        layer=SimpleNamespace(name=name),
        candidates=candidates,
        candidate=lambda name: next(c for c in candidates if c.name == name),
    )


@dataclass
class Measuring:
    """A bed whose networks have the distortions that the test says, by the widths of their layers."""

    distortions: dict[str, float]
    samples: tuple = ((None, None),)
    seen: list[str] = field(default_factory=list)

    def point(self, kind: str, size: int, chosen) -> Point:
        self.seen.append(" ".join(name.removeprefix("int") for _, name in chosen))
        return Point(kind, size, self.distortions[self.seen[-1]])


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> Problem:
    """Prices say that the second layer can do with two bits, so that the third may have eight."""
    priced = [layer("a", 9.0, 1.0), layer("b", 1.6, 1.0), layer("c", 9.0, 2.0)]
    monkeypatch.setattr(stakes, "uniform_choice", lambda problem: [one.candidates[1] for one in priced])
    return Problem(None, None, priced, 0, None)  # type: ignore[arg-type]


def limits(problem: Problem, budget: float) -> list[tuple[str, Limit]]:
    return [(SIZE, Limit(problem.sizes, budget))]


@pytest.mark.parametrize(
    ("taken", "uniform", "expected"),
    [(1.0, 2.0, "taken"), (2.0, 1.0, "uniform"), (1.0, 1.05, "uniform"), (1.0, 1.2, "taken")],
)
def test_what_was_measured_best_is_chosen_the_careful_one_of_two_alike(problem, taken, uniform, expected):
    bed = Measuring({"4 2 4": 1.0, "4 2 8": taken, "4 4 4": uniform})
    found, trials = with_caution(problem, bed, limits(problem, 14))  # type: ignore[arg-type]
    choice = stakes.within(found, limits(found, 14))
    assert choice == ([1, 0, 2] if expected == "taken" else [1, 1, 1])
    assert sorted(bed.seen) == ["4 2 8", "4 4 4"]
    assert len(trials) == 2
    assert f"x{found.caution:g}" in told(trials, found.caution)[0]


def test_the_most_careful_takes_bits_away_only_where_the_budget_asks_for_it(problem):
    careful = replace(problem, caution=caution.CAUTIONS[-1])
    assert stakes.within(careful, limits(problem, 12)) == [1, 1, 1]
    assert stakes.within(careful, limits(problem, 16)) == [1, 1, 2]
    assert stakes.within(careful, limits(problem, 10)) == [1, 0, 1]


def test_where_all_cautions_choose_alike_nothing_is_measured(problem):
    bed = Measuring({})
    found, trials = with_caution(problem, bed, limits(problem, 24))  # type: ignore[arg-type]
    assert (found, trials, told(trials, 1.0)) == (problem, (), ())


def test_effects_that_are_told_have_no_caution_in_them(problem):
    careful = replace(problem, caution=4.0)
    assert careful.effect([1, 0, 1]) == pytest.approx(4.6)
    assert sum(costs[pick] for costs, pick in zip(careful.costs, [1, 0, 1], strict=True)) == pytest.approx(
        1 + 4 * 1.6 + 2
    )
    assert np.concatenate(problem.costs) == pytest.approx(np.concatenate(problem.effects))


def test_a_file_that_is_a_little_too_large_is_chosen_again_below_what_it_takes(problem, monkeypatch):
    """The best choice takes 20 of 23; its file has a byte too many, so what takes 19 or less is next."""
    asked = replace(
        problem, opened=SimpleNamespace(calibration=SimpleNamespace(synthetic=False)), recipe=Recipe()
    )
    sizes = []
    monkeypatch.setattr(budgeting, "check_anything", lambda problem, choice: None)
    monkeypatch.setattr(budgeting, "plan", lambda model, recipe, real: recipe)
    monkeypatch.setattr(budgeting, "bytes_of", lambda plan, recipe: sizes.append(recipe.rules) or len(sizes))
    monkeypatch.setattr(budgeting, "excess_of", lambda problem, size: 1.0 if size == 1 else 0.0)
    monkeypatch.setattr(Problem, "rules", lambda self, choice: tuple(f"{at}=int8" for at in choice))
    made = budgeting.fitted(asked, limits(asked, 23), "model.onnx")
    taken = sum(asked.sizes[at][pick] for at, pick in enumerate(made.choice))
    assert sizes[0] == ("2=int8", "1=int8", "2=int8")
    assert taken <= 19
    assert made.recipe.rules == sizes[1]
