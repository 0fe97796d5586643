"""How much to damp a Gram matrix, judged on samples that the solver has not seen.

A Gram from few or correlated rows has small eigenvalues that mean little, and codes that make use of them do
not carry over to new inputs. What is added to its diagonal is chosen for each Gram: errors such as rounding
with feedback makes are drawn under one half of the calibration samples at each damping, and scored under the
other half. The errors are those of uniform random weights on a fine grid, so the choice needs neither the
layer's weights nor its width. Whole samples are held out, because the tokens and pixels of one sample are
correlated.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from comq_onnx.backends.engine import Engine
from comq_onnx.backends.protocol import Array, Backend, Steps
from comq_onnx.moments import halves, of_groups
from comq_onnx.records import InputStats
from comq_onnx.solve.factor import coupling, falling, reordered, restored
from comq_onnx.solve.pose import Posed, second_moment

CANDIDATES = (0.02, 0.1, 0.5)
"""Damping as parts of mean(diag Gram); a parabola through their scores gives the answer."""
LOWER = 0.004
"""Tried where the lowest candidate is the best."""
RANGE = (1e-3, 1.0)
UNJUDGED = 0.5
"""Where no samples are held out: damping is this times live inputs / calibration rows, within `RANGE`."""
PROBES = 16
"""Random columns whose errors are scored."""
GROUPS = 32
"""Groups of a layer that are judged, evenly spaced: a depthwise convolution has hundreds that are alike."""
WIDE = 1 << 20
"""A bound that no step of a probe reaches."""


def chosen(stats: InputStats | None, posed: Posed, centred: bool, engine: Engine) -> Array:
    """Damping for each group ``(G,)``, as a part of the mean of its Gram's live diagonal."""
    xp, groups = posed.xp, len(posed.live)
    if stats is None:
        return xp.full(groups, RANGE[0])
    if stats.half is None:
        crowding = posed.live.sum(axis=1) / max(stats.count, 1)
        return xp.clip(UNJUDGED * crowding, RANGE[0], 0.2)
    some = np.linspace(0, groups - 1, min(groups, GROUPS)).astype(int)
    seen, unseen = halves(of_groups(stats, some), xp)
    live = posed.live if len(some) == groups else posed.live[xp.asarray(some)]
    trial = _trial(seen, unseen, live, posed.gram.dtype, centred, xp)

    def judged(*dampings: float) -> list[tuple[float, float]]:
        errors = engine.map(lambda damping: _error(trial, damping, engine.backend), dampings)
        return list(zip(dampings, errors, strict=True))

    tried = judged(*CANDIDATES)
    if tried[0][1] <= min(tried[1][1], tried[2][1]):
        tried = [*judged(LOWER), *tried[:2]]
    return xp.full(groups, _lowest(tried))


def _lowest(tried: list[tuple[float, float]]) -> float:
    """Where the parabola through three (damping, error), on logarithmic axes, is lowest."""
    errors = np.array([error for _, error in tried])
    if not (np.isfinite(errors) & (errors > 0)).all():
        return tried[int(np.argmin(errors))][0]
    x, y = np.log(np.array(tried)).T
    curve, slope, _ = np.polyfit(x, y, 2)
    if curve <= 0:
        return tried[int(np.argmin(y))][0]
    return float(np.clip(np.exp(np.clip(-slope / (2 * curve), x[0] - 1.5, x[-1] + 1)), *RANGE))


@dataclass(frozen=True)
class _Trial:
    """What dampings are tried on; rows in the order of visit."""

    gram: Array
    """``(G, K, K)``, of the seen samples, mean live diagonal 1"""
    live: Array
    order: Array
    """``(G, K)``"""
    level: Array
    """``(G,)``: what the Gram was divided by"""
    seen: InputStats
    unseen: InputStats
    centred: bool


def _trial(seen: InputStats, unseen: InputStats, live: Array, dtype: Any, centred: bool, xp: Any) -> _Trial:
    gram = second_moment(seen, centred, xp)
    diagonal = xp.diagonal(gram, axis1=1, axis2=2) * live
    level = diagonal.sum(axis=1) / xp.maximum(live.sum(axis=1), 1)
    level = xp.where(level > 0, level, 1)
    scaled = xp.empty(gram.shape, dtype)
    xp.multiply(gram, (1 / level)[:, None, None], out=scaled, casting="same_kind")
    if not bool(live.all()):
        scaled *= live[:, :, None] & live[:, None, :]
    order = falling(diagonal, xp)
    visited_live = xp.take_along_axis(live, order, 1)
    return _Trial(reordered(scaled, order, xp), visited_live, order, level, seen, unseen, centred)


def _error(trial: _Trial, damping: float, backend: Backend) -> float:
    """Mean error of the probes on the unseen samples, each group by its own mean diagonal."""
    xp, groups, dtype = backend.xp, len(trial.live), trial.gram.dtype
    weight = _probes(trial.live.shape, dtype, xp)
    one, bound = xp.ones((groups, PROBES, 1), dtype), xp.full((1, 1, 1), WIDE, dtype)
    steps = Steps(one, -bound, bound, xp.zeros(trial.live.shape, dtype=np.int64))
    try:
        factor = coupling(trial.gram, trial.live, xp.full(groups, damping), backend)
    except np.linalg.LinAlgError:
        return float("inf")
    p = backend.feedback(factor, weight, steps)
    error = restored((weight - p) * trial.live[:, None], trial.order, xp)
    return float((unseen_error(error, trial.seen, trial.unseen, trial.centred, xp) / trial.level).sum())


def _probes(shape: tuple[int, int], dtype: Any, xp: Any) -> Array:
    """Random weights ``(G, PROBES, K)``, the same for every group.

    Drawn row by row, so that rows at the end, which are the dead ones, change nothing before them.
    """
    groups, rows = shape
    draws = xp.asarray(np.random.default_rng(0).uniform(-64, 64, (rows, PROBES)).T, dtype=dtype)
    return xp.ascontiguousarray(xp.broadcast_to(draws, (groups, PROBES, rows)))


def unseen_error(error: Array, seen: InputStats, unseen: InputStats, centred: bool, xp: Any = np) -> Array:
    """``(G,)``: ``E ||error x - bias||^2`` on `unseen` over all columns of `error` ``(G, M, K)``.

    The bias is ``error mean`` of `seen` if `centred`, 0 otherwise.
    """
    wide = error.astype(np.float64)
    total = (wide * (wide @ xp.asarray(unseen.gram))).sum(axis=(1, 2))
    if not centred:
        return total
    bias = (wide @ xp.asarray(seen.mean)[:, :, None])[:, :, 0]
    shift = (wide @ xp.asarray(unseen.mean)[:, :, None])[:, :, 0]
    return total + (bias * bias - 2 * bias * shift).sum(axis=1)
