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
from comq_onnx.records import InputStats
from comq_onnx.solve.factor import coupling, falling, reordered
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
    seen, unseen = halves(_of_groups(stats, some), xp)
    live = posed.live if len(some) == groups else posed.live[xp.asarray(some)]
    judge = _Judge(_Basis(live, posed.gram.dtype, centred, engine.backend), seen, unseen)

    def judged(*dampings: float) -> list[tuple[float, float]]:
        return list(zip(dampings, engine.map(judge.error, dampings), strict=True))

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
class _Basis:
    """What the judges of a layer share."""

    live: Array
    """``(G, K)``"""
    dtype: Any
    centred: bool
    backend: Backend


class _Judge:
    """Scores dampings of the Gram of one part of the samples on another part."""

    def __init__(self, basis: _Basis, seen: InputStats, unseen: InputStats) -> None:
        xp, live = basis.backend.xp, basis.live
        gram = second_moment(seen, basis.centred, xp)
        diagonal = xp.diagonal(gram, axis1=1, axis2=2) * live
        level = diagonal.sum(axis=1) / xp.maximum(live.sum(axis=1), 1)
        self.level = xp.where(level > 0, level, 1)
        self.order = falling(diagonal, xp)
        self.live = xp.take_along_axis(live, self.order, 1)
        scaled = xp.empty(gram.shape, basis.dtype)
        xp.multiply(gram, (1 / self.level)[:, None, None], out=scaled, casting="same_kind")
        self.gram = reordered(scaled, self.order, xp)
        if not bool(self.live.all()):
            self.gram *= self.live[:, :, None] & self.live[:, None, :]
        self.seen, self.unseen, self.centred, self.backend = seen, unseen, basis.centred, basis.backend
        rows = self.live.shape[1]
        # Drawn row by row, so that rows at the end, which are the dead ones, change nothing before them.
        draws = np.random.default_rng(0).uniform(-64, 64, (rows, PROBES)).T
        weight = xp.asarray(draws, dtype=self.gram.dtype)
        self.weight = xp.ascontiguousarray(xp.broadcast_to(weight, (len(self.gram), PROBES, rows)))

    def error(self, damping: float) -> float:
        """Mean error of the probes on the unseen samples, each group by its own mean diagonal."""
        xp, backend = self.backend.xp, self.backend
        groups, cols, rows = self.weight.shape
        one = xp.ones((groups, cols, 1), self.gram.dtype)
        bound = xp.full((1, 1, 1), WIDE, self.gram.dtype)
        steps = Steps(one, -bound, bound, xp.zeros((groups, rows), dtype=np.int64))
        try:
            factor = coupling(self.gram, self.live, xp.full(groups, damping), backend)
            p = backend.feedback(factor, self.weight, steps)
        except np.linalg.LinAlgError:
            return float("inf")
        error = xp.empty_like(self.weight)
        group = xp.arange(groups)[:, None, None]
        cells = xp.arange(cols)[None, :, None]
        error[group, cells, self.order[:, None]] = (self.weight - p) * self.live[:, None]
        return float((unseen_error(error, self.seen, self.unseen, self.centred, xp) / self.level).sum())


def _of_groups(stats: InputStats, some: np.ndarray) -> InputStats:
    """The statistics of some groups, halves and all; all of them where that is all."""
    if len(some) == len(stats.mean):
        return stats
    half = None if stats.half is None else _of_groups(stats.half, some)
    return InputStats(stats.mean[some], stats.gram[some], stats.count, half)


def halves(stats: InputStats, xp: Any = np) -> tuple[InputStats, InputStats]:
    """Statistics of the first half of the samples and, by subtraction, of the second."""
    first = stats.half
    if first is None:
        raise ValueError("no half of the samples was summed apart")
    count = stats.count - first.count
    whole, part = stats.count / count, first.count / count
    mean = whole * xp.asarray(stats.mean) - part * xp.asarray(first.mean)
    gram = whole * xp.asarray(stats.gram)
    gram -= part * xp.asarray(first.gram)
    return first, InputStats(mean, gram, count)


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
