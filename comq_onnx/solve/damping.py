"""How much to damp a Gram matrix, judged on samples that the solver has not seen.

A Gram from few or correlated rows has small eigenvalues that mean little, and codes that make use of them do
not carry over to new inputs. What is added to its diagonal is chosen for each layer: a part of the columns is
solved on one half of the calibration samples at each candidate, and scored on the other half. Whole samples
are held out, because the tokens and pixels of one sample are correlated.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from comq_onnx.backends.protocol import Backend
from comq_onnx.grid import spread
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.comq import Settings, quick
from comq_onnx.solve.pose import Posed, pose

CANDIDATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Damping as parts of mean(diag Gram)."""
UNJUDGED = 0.5
"""Where no samples are held out: damping is this times live inputs / calibration rows, within `RANGE`."""
RANGE = (1e-4, 0.2)
COLUMNS, GROUPS = 48, 64
"""Columns and groups that are solved to choose; evenly spaced."""
LONG = 1024
"""Columns longer than this are judged on one half only: each solve costs a factorisation."""
CELLS = 1 << 22
"""Entries of the Gram matrices of trials that are solved together."""
Turn = tuple[InputStats, InputStats]
"""What is solved on, and what it is judged on."""
MORE_ROWS = 0.5
"""The whole data have twice the rows of a half, so half the damping that a half wants."""


def chosen(problem: Problem, posed: Posed, centred: bool, backend: Backend) -> np.ndarray:
    """Damping for each group ``(G,)``, as a part of the mean of its Gram's live diagonal."""
    stats = problem.stats
    if stats is None or stats.half is None:
        return np.clip(UNJUDGED * posed.crowding, *RANGE)
    part, rows = _part(problem), problem.weight.shape[1]
    first, second = halves(part.stats)  # pyright: ignore[reportArgumentType]
    turns = [(first, second)] if rows > LONG else [(first, second), (second, first)]
    trials = [(damping, turn) for damping in CANDIDATES for turn in turns]
    together = max(1, CELLS // (len(part.weight) * rows * rows)) if not posed.tied else 1
    errors = []
    for start in range(0, len(trials), together):
        errors += _errors(part, trials[start : start + together], centred, backend)
    by_candidate = np.reshape(errors, (len(CANDIDATES), len(turns))).sum(axis=1)
    return np.full(len(problem.weight), MORE_ROWS * CANDIDATES[int(np.argmin(by_candidate))])


def _errors(
    part: Problem, trials: Sequence[tuple[float, Turn]], centred: bool, backend: Backend
) -> list[float]:
    """The error of each trial on its unseen half; all are solved at once, as groups of one problem."""
    groups, times = len(part.weight), len(trials)
    seen = [turn[0] for _, turn in trials]
    gathered = InputStats(
        np.concatenate([stats.mean for stats in seen]),
        np.concatenate([stats.gram for stats in seen]),
        seen[0].count,
    )
    posed = pose(replace(part, weight=np.tile(part.weight, (times, 1, 1)), stats=gathered), centred)
    damping = np.repeat([damping for damping, _ in trials], groups)
    p, scale, _ = quick(posed, damping, backend, Settings(rounds=((1.0,),), sweeps=3))
    error = np.ldexp(posed.weight - spread(scale, p.shape[1], posed.block) * p, posed.exponent)
    return [
        unseen_error(mine, *turn, centred)
        for mine, (_, turn) in zip(np.split(error, times), trials, strict=True)
    ]


def halves(stats: InputStats) -> tuple[InputStats, InputStats]:
    """Statistics of the first half of the samples and, by subtraction, of the second."""
    first = stats.half
    if first is None:
        raise ValueError("no half of the samples was summed apart")
    count = stats.count - first.count
    whole, part = stats.count / count, first.count / count
    mean = whole * stats.mean - part * first.mean
    return first, InputStats(mean, whole * stats.gram - part * first.gram, count)


def unseen_error(error: np.ndarray, seen: InputStats, unseen: InputStats, centred: bool) -> float:
    """``E ||error^T x - bias||^2`` on `unseen`, with the bias ``error^T mean`` of `seen` if `centred`."""
    total = np.vdot(error, unseen.gram @ error)
    if centred:
        bias = np.einsum("gk,gkm->gm", seen.mean, error)
        shift = np.einsum("gk,gkm->gm", unseen.mean, error)
        total += (bias * bias - 2 * bias * shift).sum()
    return float(total)


def _part(problem: Problem) -> Problem:
    """Evenly spaced groups and columns of `problem`, statistics and all."""
    groups, _, cols = problem.weight.shape
    some = np.linspace(0, groups - 1, min(groups, GROUPS)).astype(int)
    columns = np.linspace(0, cols - 1, min(cols, max(1, COLUMNS // len(some)))).astype(int)
    stats = problem.stats
    if stats is not None and len(some) < groups:
        stats = replace(_groups(stats, some), half=_groups(stats.half, some) if stats.half else None)
    return replace(problem, weight=problem.weight[some][:, :, columns], stats=stats)


def _groups(stats: InputStats, some: np.ndarray) -> InputStats:
    return InputStats(stats.mean[some], stats.gram[some], stats.count)
