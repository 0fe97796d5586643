"""Which neighbouring layers differ most in capacity, and so are worth solving together (MRECG).

`MRECG <https://arxiv.org/abs/2303.11906>`_ finds that the loss of a reconstruction that goes layer by layer
oscillates along the depth where the capacities of neighbours differ, and reconstructs those neighbours
together. A capacity is the bits of a layer's weights, or, measured, its loss.
"""

import math
from collections.abc import Mapping, Sequence

from comq_onnx.graph.adjacent import Pair
from comq_onnx.grid import Grid
from comq_onnx.records import Layer

STRIDED = 1.6
"""What a weight of a convolution of stride 2 counts: it works on a map of a quarter of the size."""


def modcap(layers: Sequence[Layer], grids: Mapping[str, Grid]) -> dict[str, float]:
    """The capacity of each layer from its shape alone: weights times bits times `STRIDED` at stride 2."""
    return {
        layer.name: math.prod(layer.layout.shape) * grids[layer.name].bits * _conversion(layer)
        for layer in layers
    }


def modcap_from_losses(losses: Mapping[str, float]) -> dict[str, float]:
    """The capacity of each layer as measured: its loss in a first pass (`Solved.drift`, for one).

    Layers whose loss is not finite, or 0 because nothing before them was quantized, are left out.
    """
    return {name: loss for name, loss in losses.items() if 0 < loss < math.inf}


def differing(pairs: Sequence[Pair], capacity: Mapping[str, float], count: int) -> list[Pair]:
    """The `count` pairs of largest squared difference of capacity, of those that can be solved together.

    In the order of `pairs`. Pairs of a layer without capacity are left out; of equals the first are taken.
    """
    fit = [pair for pair in pairs if not pair.refusal and pair.first in capacity and pair.second in capacity]
    ranked = sorted(fit, key=lambda pair: -((capacity[pair.second] - capacity[pair.first]) ** 2))
    return [pair for pair in pairs if pair in ranked[:count]]


def _conversion(layer: Layer) -> float:
    strided = layer.geometry is not None and max(layer.geometry.strides, default=1) == 2
    return STRIDED if strided else 1.0
