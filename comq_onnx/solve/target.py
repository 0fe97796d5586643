"""The weights to aim at in a quantized network: those that make up for what the layer is fed.

The layers before it were quantized, so it sees x' where the float network has x. The weights that come
nearest to the float output, ``argmin E ||W^T x - V^T x'||^2``, are ``V = W + G^-1 K^T W`` with
``G = Cov(x')`` and ``K = Cov(x - x', x')``. From few samples that overfits, so the change is shrunken as in
ridge regression, ``V = W + (G + lam I)^-1 K^T W``, and lam is chosen by samples held out: changes made from
one half of the samples are scored on the other half. The codes are then solved for V on the same G.

Where the output is added to another activation r, as in a residual block, the sum is what counts:
``K^T W`` becomes ``K^T W + Cov(x', r - r')``.
"""

from dataclasses import dataclass

import numpy as np

from comq_onnx.backends.engine import Engine
from comq_onnx.moments import halves
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.factor import add_diagonal
from comq_onnx.solve.pose import CONSTANT, second_moment

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03)
"""Shrinkage lam as parts of mean(diag G), from hardly a correction to nearly a full one."""
SHARE = 0.5
"""Of the lam found on half of the samples, for all of them: the noise it is for falls with their number."""
UNJUDGED = 0.3
"""Where no samples are held out."""
PROBES = 32
"""Random mixtures of a layer's columns that corrections are scored on."""


def corrected(problem: Problem, centred: bool, engine: Engine) -> tuple[np.ndarray, float]:
    """The weights to solve for ``(groups, rows, cols)``, and lam; infinity for the weights as they are."""
    stats, weight = problem.stats, np.asarray(problem.weight, np.float64)
    drift = None if stats is None else stats.drift
    if stats is None or drift is None or (drift.energy == 0 and drift.residual_cross is None):
        return weight, np.inf
    strength = UNJUDGED if stats.half is None else _chosen(stats, weight, centred, engine)
    if not np.isfinite(strength):
        return weight, strength
    moments = _moments(stats, centred)
    return weight + _change(moments, _pull(moments, weight), strength, np.float64), strength


@dataclass(frozen=True)
class _Moments:
    gram: np.ndarray
    """``(G, K, K)``: Cov(x'), or its Gram"""
    cross: np.ndarray
    """``(G, K, K)``: Cov(x - x', x'), or E[(x - x') x'^T]"""
    residual: np.ndarray | None
    """``(G, M, K)``: Cov(r - r', x'), or E[(r - r') x'^T]"""
    live: np.ndarray
    """``(G, K)``: inputs that vary"""


def _chosen(stats: InputStats, weight: np.ndarray, centred: bool, engine: Engine) -> float:
    """The lam whose corrections from one half of the samples do most for the other; infinity for none."""
    first, second = (_moments(half, centred) for half in halves(stats))
    columns, mixture = weight.shape[2], None
    if columns > PROBES:
        mixture = np.random.default_rng(0).choice([-1.0, 1.0], (columns, PROBES))
    seen, pull = (_pull(half, weight, mixture) for half in (first, second))

    def gain(strength: float) -> float:
        change = _change(first, seen, strength, np.float32)
        return float((change * (2 * pull - second.gram @ change)).sum())

    gains = list(engine.map(gain, STRENGTHS))
    return SHARE * STRENGTHS[int(np.argmax(gains))] if max(gains) > 0 else np.inf


def _moments(stats: InputStats, centred: bool) -> _Moments:
    if stats.drift is None:
        raise ValueError("these are not the statistics of two networks")
    gram, cross = second_moment(stats, centred), np.asarray(stats.drift.cross)
    residual, residual_mean = stats.drift.residual_cross, stats.drift.residual_mean
    if centred:
        cross = cross - stats.drift.mean[:, :, None] * stats.mean[:, None, :]
        if residual is not None and residual_mean is not None:
            residual = residual - residual_mean[:, :, None] * stats.mean[:, None, :]
    square = np.diagonal(np.asarray(stats.gram), axis1=1, axis2=2)
    return _Moments(gram, cross, residual, np.diagonal(gram, axis1=1, axis2=2) > CONSTANT * square)


def _pull(moments: _Moments, weight: np.ndarray, mixture: np.ndarray | None = None) -> np.ndarray:
    """``K^T W + Cov(x', r - r')``, or mixtures of its columns ``(M, n)``."""
    mixed = weight if mixture is None else weight @ mixture
    pull = moments.cross.swapaxes(1, 2) @ mixed
    if moments.residual is not None:
        residual = moments.residual.swapaxes(1, 2)
        pull = pull + (residual if mixture is None else residual @ mixture)
    return pull


def _change(moments: _Moments, pull: np.ndarray, strength: float, dtype: type) -> np.ndarray:
    """``(G + lam I)^-1 pull``, zero for inputs that do not vary, ``(G, K, M)`` float64."""
    live = moments.live
    level = (np.diagonal(moments.gram, axis1=1, axis2=2) * live).sum(axis=1) / np.maximum(live.sum(axis=1), 1)
    pull = pull * live[:, :, None]
    system = moments.gram * (live[:, :, None] & live[:, None, :])
    # To a level of 1, dead inputs too, so that float32 neither overflows nor vanishes.
    unit = np.where(level > 0, level, 1.0)[:, None, None]
    system = add_diagonal(system, np.where(live, strength * level[:, None], unit[:, :, 0]), np)
    return np.linalg.solve((system / unit).astype(dtype), (pull / unit).astype(dtype)).astype(np.float64)
