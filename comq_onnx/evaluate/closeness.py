"""How close an output of one model is to that of another, by several measures, sample by sample.

``x`` is the first model's output and ``y`` the second's, both flattened, in float64:

* SQNR is ``10 log10(sum x^2 / sum (x - y)^2)`` in dB: 20 dB is an error of a tenth, infinity is equality.
* Cosine is ``x.y / (|x| |y|)`` of each sample, and its mean.
* Top-1 is the share of positions whose largest class is the same.
* KL is ``sum p log(p / q)`` in nats, the mean over positions; p are the first model's probabilities.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from comq_onnx.run.session import is_float

ClassesKind = Literal["probabilities", "log-probabilities", "logits"]
TINY = float(np.finfo(np.float32).tiny)
"""What a probability of 0 counts as"""
SUM_TO_ONE = 1e-2
"""How far from 1 probabilities may add up to; float16 is coarse"""


@dataclass(frozen=True)
class Classes:
    """Where an output has classes, and what its numbers say of them."""

    axis: int
    kind: ClassesKind


@dataclass(frozen=True)
class Measured:
    """One sample of one output."""

    alike: bool
    """Whether shapes are equal; all else is 0 where they are not"""
    floating: bool = True
    identical: bool = False
    signal: float = 0.0
    noise: float = 0.0
    """Infinite where one value is finite and its fellow is not"""
    cosine: float = 1.0
    entries: int = 0
    equal: int = 0
    largest: float = 0.0
    positions: int = 0
    same_top: int = 0
    divergence: float = 0.0
    """KL, summed over positions"""


@dataclass(frozen=True)
class Worst:
    """The sample on which a measure is worst, from 0, and its value there."""

    sample: int
    value: float


@dataclass(frozen=True)
class Closeness:
    """One output over all samples; measures that make no sense for it are None."""

    output: str
    """Its name in the first model"""
    shape: tuple[int, ...]
    """Of the first sample"""
    identical: bool
    """Whether all samples are equal to the last bit"""
    sqnr_db: float | None = None
    cosine: float | None = None
    largest: float | None = None
    """Largest absolute difference"""
    equal: float | None = None
    """Share of equal entries of an output that is not floating"""
    classes: ClassesKind | None = None
    top1: float | None = None
    kl: float | None = None
    worst: Mapping[str, Worst] = field(default_factory=dict)
    """By name of the measure"""
    note: str = ""


def measure(x: np.ndarray, y: np.ndarray, classes: Classes | None) -> Measured:
    """One sample of an output of both models; `classes` where it has them."""
    if x.shape != y.shape:
        return Measured(alike=False)
    if not (is_float(x.dtype) and is_float(y.dtype)):
        equal = int(np.count_nonzero(x == y))
        return Measured(True, floating=False, identical=equal == x.size, entries=x.size, equal=equal)
    x, y = x.astype(np.float64), y.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    both = np.isfinite(x) & np.isfinite(y)
    signal, noise = signal_and_noise(x, y)
    top, positions, divergence = (0, 0, 0.0) if classes is None else _classified(x, y, classes)
    return Measured(
        alike=True,
        identical=bool(same.all()),
        signal=signal,
        noise=noise,
        cosine=_cosine(x[both], y[both]),
        entries=x.size,
        equal=int(np.count_nonzero(same)),
        largest=math.inf if noise == math.inf else float(np.abs(x[both] - y[both]).max(initial=0.0)),
        positions=positions,
        same_top=top,
        divergence=divergence,
    )


def signal_and_noise(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """``sum x^2`` and ``sum (x - y)^2`` of two tensors of one shape, in float64.

    Equal values, infinite ones and NaN too, make no noise; one that is finite in one tensor alone makes it
    infinite, and counts as no signal.
    """
    x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        gap = x - y
    signal, noise = float(np.sum(x * x)), float(np.sum(gap * gap))
    if math.isfinite(signal) and math.isfinite(noise):
        return signal, noise
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    finite = np.isfinite(x)
    lost = bool(np.any(~same & ~(finite & np.isfinite(y))))
    return float(np.sum(x[finite] ** 2)), math.inf if lost else float(np.sum(gap[~same] ** 2))


def sqnr_db(signal: float, noise: float) -> float:
    """In dB; infinite without noise, minus infinity for noise without a signal or noise without bound."""
    if noise == 0:
        return math.inf
    if signal == 0 or not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)


def closeness(
    output: str, shape: tuple[int, ...], samples: Sequence[Measured], classes: Classes | None
) -> Closeness:
    """All samples of an output together."""
    identical = all(sample.alike and sample.identical for sample in samples)
    unlike = sum(not sample.alike for sample in samples)
    if unlike:
        note = f"its shape differs on {unlike} of {len(samples)} samples"
        return Closeness(output, shape, identical, note=note)
    entries = sum(sample.entries for sample in samples)
    if not all(sample.floating for sample in samples):
        share = sum(sample.equal for sample in samples) / entries if entries else 1.0
        worst = {"equal": _worst(samples, lambda s: s.equal / s.entries if s.entries else 1.0, min)}
        return Closeness(output, shape, identical, equal=share, worst=worst)
    return Closeness(
        output=output,
        shape=shape,
        identical=identical,
        sqnr_db=sqnr_db(sum(s.signal for s in samples), sum(s.noise for s in samples)),
        cosine=sum(sample.cosine for sample in samples) / len(samples),
        largest=max(sample.largest for sample in samples),
        worst={
            "sqnr_db": _worst(samples, lambda s: sqnr_db(s.signal, s.noise), min),
            "cosine": _worst(samples, lambda s: s.cosine, min),
        }
        | _worst_classes(samples, classes),
        **_over_positions(samples, classes),
        note=_not_finite(samples),
    )


def read_classes(values: np.ndarray, linear: bool) -> Classes | None:
    """What an output is by its values: probabilities, their logarithms, or, if `linear`, logits.

    Probabilities lie along the last axis, or along the second. `linear` says that other evidence speaks for
    logits; those lie along the last axis.
    """
    if not is_float(values.dtype) or values.ndim < 2 or not values.size:
        return None
    wide = values.astype(np.float64)
    if np.isfinite(wide).all() or np.isneginf(wide).any():
        for axis in dict.fromkeys((values.ndim - 1, 1)):
            if values.shape[axis] < 2:
                continue
            if wide.min() >= 0 and _adds_up(wide, axis):
                return Classes(axis, "probabilities")
            if wide.max() <= 0 and _adds_up(np.exp(wide), axis):
                return Classes(axis, "log-probabilities")
    return Classes(values.ndim - 1, "logits") if linear and values.shape[-1] > 1 else None


def _adds_up(values: np.ndarray, axis: int) -> bool:
    return bool(np.all(np.abs(values.sum(axis=axis) - 1) < SUM_TO_ONE))


def _classified(x: np.ndarray, y: np.ndarray, classes: Classes) -> tuple[int, int, float]:
    """Positions with the same largest class, positions, and the sum of their divergences."""
    if not x.size or x.ndim <= classes.axis:
        return 0, 0, 0.0
    same = x.argmax(axis=classes.axis) == y.argmax(axis=classes.axis)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinities nothing is known: NaN says so
        log_p, log_q = _log(x, classes), _log(y, classes)
        terms = np.where(log_p > -math.inf, np.exp(log_p) * (log_p - log_q), 0.0)
    return int(np.count_nonzero(same)), same.size, float(terms.sum())


def _log(values: np.ndarray, classes: Classes) -> np.ndarray:
    """Logarithms of probabilities, 0 taken for the least float32."""
    if classes.kind == "probabilities":
        return np.log(np.maximum(values, TINY))
    if classes.kind == "log-probabilities":
        return np.maximum(values, math.log(TINY))
    shifted = values - values.max(axis=classes.axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=classes.axis, keepdims=True))


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    """1 for two zero vectors, 0 where one of them is zero."""
    # Sums, not products of a BLAS: its threads fight with those of the runtime.
    lengths = math.sqrt(float(np.sum(x * x))) * math.sqrt(float(np.sum(y * y)))
    if lengths == 0:
        return 1.0 if np.array_equal(x, y) else 0.0
    return min(1.0, max(-1.0, float(np.sum(x * y)) / lengths))


def _worst(samples: Sequence[Measured], value: Callable[[Measured], float], worse: Callable) -> Worst:
    values = [value(sample) for sample in samples]
    found = worse(values)
    return Worst(values.index(found), found)


def _worst_classes(samples: Sequence[Measured], classes: Classes | None) -> dict[str, Worst]:
    if classes is None or not all(sample.positions for sample in samples):
        return {}
    found = {"kl": _worst(samples, lambda s: s.divergence / s.positions, max)}
    if any(sample.positions > 1 for sample in samples):  # of one position it is right or wrong
        found["top1"] = _worst(samples, lambda s: s.same_top / s.positions, min)
    return found


def _over_positions(samples: Sequence[Measured], classes: Classes | None) -> dict:
    positions = sum(sample.positions for sample in samples)
    if classes is None or not positions:
        return {}
    return {
        "classes": classes.kind,
        "top1": sum(sample.same_top for sample in samples) / positions,
        "kl": sum(sample.divergence for sample in samples) / positions,
    }


def _not_finite(samples: Sequence[Measured]) -> str:
    lost = sum(math.isinf(sample.noise) for sample in samples)
    return f"NaN or infinity in one model alone on {lost} of {len(samples)} samples" if lost else ""
