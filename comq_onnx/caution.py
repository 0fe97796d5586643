"""How far prices may be trusted where they take bits away from a layer: found by measuring whole networks.

A price is measured with all else in floating point and on few samples. Where it says that a wide layer can do
with two bits it may err, and one such error costs more than many layers with eight bits bring in. So the
choice is made several times, with the errors of codes narrower than the uniform ones held to cost a multiple
of what prices say, and the networks that come of it are measured. The last of the multiples takes bits away
only where the budget asks for it: nothing, where the uniform network keeps the budget.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from comq_onnx.allocate.allocation import Point
from comq_onnx.allocate.knapsack import Limit
from comq_onnx.pricing import Bed
from comq_onnx.stakes import Problem, within

CAUTIONS = (1.0, 3.0, 1000.0)
ALIKE = 1.1
"""Ratio of distortions below which the more careful choice is taken"""


@dataclass(frozen=True)
class Trial:
    """A choice that was measured."""

    caution: float
    distortion: float


def with_caution(
    problem: Problem, bed: Bed, limits: Sequence[tuple[str, Limit]]
) -> tuple[Problem, tuple[Trial, ...]]:
    """The problem with the caution whose network was measured best, or hardly worse than the best.

    Also what was measured, one trial for each choice that differs; none where there is but one choice.
    ComqError where the limits cannot be kept.
    """
    choices: dict[tuple[int, ...], float] = {}
    for caution in CAUTIONS:
        choices[tuple(within(replace(problem, caution=caution), limits))] = caution
    if len(choices) == 1:
        return problem, ()
    trials = tuple(
        Trial(caution, measured(problem, bed, "", problem.names(choice)).distortion)
        for choice, caution in choices.items()
    )
    least = min(trial.distortion for trial in trials)
    best = max(trial.caution for trial in trials if trial.distortion <= ALIKE * least)
    return replace(problem, caution=best), trials


def told(trials: Sequence[Trial], chosen: float) -> tuple[str, ...]:
    """The trials as a note for the report."""
    if not trials:
        return ()
    listed = ", ".join(f"x{trial.caution:g}: {trial.distortion:.3g}" for trial in trials)
    return (
        "Errors of narrower codes than the uniform ones are held to cost a multiple of their price, "
        f"x{chosen:g}. Distortion measured by multiple: {listed}.",
    )


def measured(problem: Problem, bed: Bed, kind: str, names: Mapping[str, str]) -> Point:
    """The network whose layers have these storages, measured with the hurried solutions."""
    chosen = [(one, names[one.layer.name]) for one in problem.priced]
    size = problem.fixed + sum(one.candidate(name).bytes for one, name in chosen)
    return bed.point(kind, int(size), chosen)
