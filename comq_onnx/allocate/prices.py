"""Dual prices: what distortion of one layer costs the network's outputs.

The constrained problem is that of "Neural Networks with Quantization Constraints" (arXiv 2210.15623): each
layer's distortion is bounded, and the dual variable of its bound says what the bound costs. There it is found
by training; here by measurement: a layer alone is given its solution on a grid, all else stays float, and the
outputs' distortion over the layer's is the price. Prices of several grids are averaged in logarithms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comq_onnx.allocate.curves import Trial
from comq_onnx.allocate.distortion import Outputs, Watched, noise
from comq_onnx.run.data import Batch
from comq_onnx.run.switched import Switched

SMALLEST = 1e-14


@dataclass(frozen=True)
class Effects:
    """What was measured of one layer: by name of the grid, logarithms of the outputs' error by sample."""

    logs: Mapping[str, np.ndarray]


def effects_of(
    network: Switched,
    layer: str,
    trials: Mapping[str, Trial],
    samples: Sequence[tuple[Batch, Outputs]],
    what: Sequence[Watched],
) -> Effects:
    """Give `layer` each of its trials; compare the outputs with the float ones beside each sample."""
    logs = {}
    for name, trial in trials.items():
        fed = network.switch({layer: trial.solution})
        logs[name] = np.array([noise(truth, network.run_with(batch, fed), what) for batch, truth in samples])
    return Effects(logs)


def price_of(effects: Effects, trials: Mapping[str, Trial]) -> tuple[float, float]:
    """Output error for each unit of layer error, and the standard error of its logarithm over samples."""
    each = [logs - np.log(max(trials[name].loss, SMALLEST)) for name, logs in effects.logs.items()]
    pooled = np.mean(each, axis=0)
    return float(np.exp(pooled.mean())), float(pooled.std() / np.sqrt(len(pooled)))


def effect_at(loss: float, effects: Effects, trials: Mapping[str, Trial]) -> float:
    """The outputs' error at a layer's `loss`: between what was measured, on logarithmic axes; beyond it, in
    proportion."""
    points = sorted((np.log(max(trials[n].loss, SMALLEST)), logs.mean()) for n, logs in effects.logs.items())
    x, y = np.array(points).T
    at = np.log(max(loss, SMALLEST))
    if at <= x[0]:
        return float(np.exp(y[0] + at - x[0]))
    if at >= x[-1]:
        return float(np.exp(y[-1] + at - x[-1]))
    return float(np.exp(np.interp(at, x, y)))
