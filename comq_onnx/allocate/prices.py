"""Dual prices: what distortion of one layer costs the network's outputs.

The constrained problem is that of "Neural Networks with Quantization Constraints" (arXiv 2210.15623): each
layer's distortion is bounded, and the dual variable of its bound says what the bound costs. There it is found
by training; here by measurement: a layer alone is given its solution on a grid, all else stays float, and the
outputs' distortion over the layer's is the price. Prices of several grids are averaged in logarithms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comq_onnx.allocate.distortion import Truth, Watched, noise
from comq_onnx.records import Layer, Solution
from comq_onnx.run.onward import Onward

SMALLEST = 1e-14


@dataclass(frozen=True)
class Effects:
    """What was measured of one layer: by name of the grid, logarithms of the outputs' error by sample."""

    logs: Mapping[str, np.ndarray]


def effects_of(
    network: Onward,
    layer: Layer,
    solutions: Mapping[str, Solution],
    truths: Sequence[Truth],
    what: Sequence[Watched],
) -> Effects:
    """Give `layer` each of `solutions`, by the name of its grid; compare the outputs with the float ones."""
    logs = {}
    for name, solution in solutions.items():
        outputs = network.changed(layer, solution)
        pairs = zip(truths, outputs, strict=True)
        logs[name] = np.array([noise(truth, changed, what) for truth, changed in pairs])
    return Effects(logs)


def price_of(effects: Effects, losses: Mapping[str, float]) -> tuple[float, float]:
    """Output error for each unit of layer error, and the standard error of its logarithm over samples."""
    each = [logs - np.log(max(losses[name], SMALLEST)) for name, logs in effects.logs.items()]
    pooled = np.mean(each, axis=0)
    return float(np.exp(pooled.mean())), float(pooled.std() / np.sqrt(len(pooled)))


def effect_at(loss: float, effects: Effects, losses: Mapping[str, float]) -> float:
    """The outputs' error at a layer's `loss`: between what was measured, on logarithmic axes; beyond it, in
    proportion."""
    points = sorted((np.log(max(losses[n], SMALLEST)), logs.mean()) for n, logs in effects.logs.items())
    x, y = np.array(points).T
    at = np.log(max(loss, SMALLEST))
    if at <= x[0]:
        return float(np.exp(y[0] + at - x[0]))
    if at >= x[-1]:
        return float(np.exp(y[-1] + at - x[-1]))
    return float(np.exp(np.interp(at, x, y)))
