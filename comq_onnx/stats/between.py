"""Two layers and what lies between: slopes of the nodes there, inputs of the first, error of the second."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from comq_onnx.graph.adjacent import Pair
from comq_onnx.records import Layer
from comq_onnx.run.stream import FLOAT, QUANTIZED, Stream
from comq_onnx.stats.mask import keep_rows
from comq_onnx.stats.taps import Sampling, rows_of, taps_of

PLACES = 1024
"""Positions of one batch at which slopes are looked at, evenly spaced."""
ROWS_BYTES = 1 << 28
"""What rows of inputs may take; the same on every machine, because codes depend on it."""
SMALL = 1e-4
"""Changes below this part of a tensor's root mean square are lost in rounding, and taken for no change."""


def slopes(stream: Stream, pair: Pair, first: Layer, second: Layer) -> np.ndarray | None:
    """``(C, C)``: second moment of how much the second layer's input follows the first's output.

    The slope of one entry is ``(f(y) - f(y')) / (y - y')`` for the outputs y and y' of the first layer in the
    two networks, f the nodes between: for Relu 1 where the unit is active, 0 where it is not, and in between
    where the quantized network differs. None where the nodes change the shape.
    """
    nodes = (*stream.nodes_of(first), *pair.nodes)
    made = list(dict.fromkeys((first.output, second.input)))
    axis = 1 if first.layout.kind == "conv" else -1
    total, count = None, 0
    both = (stream.outputs(nodes, first.input, made, network) for network in (FLOAT, QUANTIZED))
    for float_, quantized in zip(*both, strict=True):
        if float_[0].shape != float_[-1].shape:
            return None
        flat = [_positions(value, axis) for value in (*float_, *quantized)]
        gap, change = flat[0] - flat[len(made)], flat[len(made) - 1] - flat[-1]
        heard = np.abs(gap) > SMALL * np.sqrt(np.mean(np.square(flat[0])))
        slope = np.divide(change, gap, out=np.zeros_like(gap), where=heard).astype(np.float64)
        total = slope.T @ slope + (0 if total is None else total)
        count += len(slope)
    return None if total is None or not count else total / count


def input_rows(stream: Stream, layer: Layer, sampling: Sampling, limit: int = ROWS_BYTES) -> np.ndarray:
    """Inputs of a layer in the quantized network, ``(groups, n, rows)`` float32, where its Gram is taken.

    Where they would take more than `limit` bytes, evenly spaced ones of each sample.
    """
    (tap,) = taps_of([layer])
    size = 4 * tap.groups * tap.rows * max(sampling.samples, 1)
    most, found = max(1, limit // size), []
    for batch, (end, entries) in enumerate(zip(accumulate(stream.entries), stream.entries, strict=True)):
        value = stream.value(layer.input, batch, QUANTIZED)
        for rows in rows_of(tap, value, sampling, end - entries):
            step = -(-rows.shape[1] // most)
            found.append(rows[:, ::step].astype(np.float32))
    return np.concatenate(found, axis=1)


def module_error(stream: Stream, layer: Layer, masks: Sequence[np.ndarray]) -> float:
    """``E ||y - y'||^2 / E ||y||^2`` of a layer's output in the two networks; padding of tokens left out."""
    nodes, lost, whole = stream.nodes_of(layer), 0.0, 0.0
    both = (stream.outputs(nodes, layer.input, [layer.output], network) for network in (FLOAT, QUANTIZED))
    for batch, ((float_,), (quantized,)) in enumerate(zip(*both, strict=True)):
        if masks and layer.layout.kind != "conv":
            float_, quantized = (keep_rows(value, masks[batch]) for value in (float_, quantized))
        lost += float(np.square(float_ - quantized, dtype=np.float64).sum())
        whole += float(np.square(float_, dtype=np.float64).sum())
    return lost / whole if whole else 0.0


def _positions(value: np.ndarray, axis: int) -> np.ndarray:
    """``(positions, channels)``, a sample of them."""
    flat = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
    return flat[:: -(-len(flat) // PLACES)] if len(flat) else flat
