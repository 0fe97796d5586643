"""How far the outputs of two ways to run a file lie apart, and how far they may."""

import math
from dataclasses import dataclass

import numpy as np

from comq_onnx.evaluate.closeness import signal_and_noise
from comq_onnx.run.session import is_float

EXACT_LIMIT, HALF_LIMIT, DEPLOYED_LIMIT = 1e-3, 1e-2, 2e-2
"""Relative L2 deviation of the optimised file: in float, in half precision, with int8 activations."""
PRODUCT_NOISE = 1e-2
"""Deviation allowed for one fused product with int8 activations, which adds 0.5 to 0.7 %
(`tools/bench_claims.py`); errors of independent products add in squares."""
FLIPPED_LIMIT = 5e-2
"""Share of entries of an integer output that may differ."""

Outputs = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    name: str
    """What was looked at"""
    ok: bool
    """Whether it is as it should be, or could not be looked at here"""
    detail: str
    """What was found, as a sentence"""
    fatal: bool = False
    """Whether the file must not be used if this fails"""


def check_agreement(name: str, expected: Outputs, found: Outputs, limit: float) -> Check:
    """The outputs of two ways to run the file deviate by no more than `limit`."""
    worst = {key: deviation(expected, found, key) for key in expected[0]} if expected else {}
    limits = {key: limit if is_float(expected[0][key].dtype) else FLIPPED_LIMIT for key in worst}
    bad = [key for key, value in worst.items() if value > limits[key]]
    text = ", ".join(f"'{key}' deviates by {worst[key]:.2g}" for key in bad)
    largest = max(worst.values(), default=0.0)
    return Check(name, not bad, text or f"largest relative deviation {largest:.2g}, limit {limit:g}")


def lies_apart(truth: Outputs, expected: Outputs, found: Outputs) -> bool:
    """Whether an output differs by more than two roundings of the same float model may.

    Where activations are rounded, each way to sum up falls on its own side of some steps, and a deep model
    that is sensitive to rounding makes of it what it makes of rounding itself: as much again, at most.
    """
    keys = expected[0] if expected else {}
    return any(deviation(expected, found, k) > 2 * deviation(truth, expected, k) for k in keys)


def deviation(expected: Outputs, found: Outputs, key: str) -> float:
    """Relative L2 distance over all batches, or the share of unequal entries; infinite if shapes differ."""
    signal = noise = 0.0
    for left, right in zip(expected, found, strict=True):
        a, b = np.asarray(left[key]), np.asarray(right[key])
        if a.shape != b.shape:
            return math.inf
        if not is_float(a.dtype):
            signal, noise = signal + a.size, noise + np.count_nonzero(a != b)
            continue
        here, lost = signal_and_noise(a, b)
        signal, noise = signal + here, noise + lost
    if noise == 0:
        return 0.0
    if not math.isfinite(noise) or signal == 0:
        return math.inf
    return math.sqrt(noise / signal) if is_float(expected[0][key].dtype) else noise / signal
