"""How far a network's outputs are from the float network's, in two measures.

`divergence` is what is reported: KL where outputs are classes, the squared relative error elsewhere. `noise`
is what prices are made of: the relative error of each position, of logits where there are any, averaged as an
amplitude. A mean of KL, or of squares, over a few samples is made by the one or two whose class flips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto

SOFTMAX = ("Softmax", "LogSoftmax")
PRODUCTS = ("Gemm", "MatMul")
PASSING = ("Add", "Identity")
SHAPING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast")
"""Operators that move values about; converted graphs have them behind their Softmax"""
TINY = 1e-14
SMALLEST = 1e-30
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Truth:
    """What the float network gives for a sample."""

    outputs: Outputs
    energies: Mapping[str, np.ndarray]
    """``||y||^2`` of each position of what is watched, logits without their mean"""


@dataclass(frozen=True)
class Watched:
    """A tensor whose distortion counts."""

    tensor: str
    """What is watched: the output itself, or the logits behind which a Softmax makes it"""
    classes: bool
    """Whether an axis holds logits of classes"""
    axis: int = -1
    """Which one"""


def watched(graph: GraphProto) -> list[Watched]:
    """What to watch for each floating output of a graph."""
    makers = {name: node for node in graph.node for name in node.output}
    found = []
    for output in graph.output:
        softmax = _behind(output.name, SHAPING, makers)
        if softmax is not None and softmax.op_type in SOFTMAX and softmax.input[0] in makers:
            axis = next((attribute.i for attribute in softmax.attribute if attribute.name == "axis"), -1)
            found.append(Watched(softmax.input[0], True, axis))
            continue
        maker = _behind(output.name, PASSING, makers)
        found.append(Watched(output.name, maker is not None and maker.op_type in PRODUCTS))
    return list({one.tensor: one for one in found}.values())


def _behind(name: str, passed: Sequence[str], makers: Mapping[str, NodeProto]) -> NodeProto | None:
    """The node of ONNX's own that makes a tensor, behind any of `passed`."""
    while (maker := makers.get(name)) is not None and maker.op_type in passed and not maker.domain:
        name = next((read for read in maker.input if read in makers), "")
    return maker if maker is not None and not maker.domain else None


def truth_of(outputs: Outputs, what: Sequence[Watched]) -> Truth:
    """What `noise` compares with; worked out once, for many layers."""
    watched_ = [one for one in what if outputs[one.tensor].dtype.kind == "f" and outputs[one.tensor].size]
    return Truth(outputs, {one.tensor: _energy(outputs[one.tensor], one) for one in watched_})


def noise(truth: Truth, found: Outputs, what: Sequence[Watched]) -> float:
    """Logarithm of the squared mean of the relative error over positions, that meant over outputs.

    Not a mean of logarithms over outputs: a layer that one output alone depends on leaves the others exact.
    Outputs that `found` lacks are exact.
    """
    powers = []
    for one in what:
        size, b = truth.energies.get(one.tensor), found.get(one.tensor)
        if size is None or (b is not None and b.shape != truth.outputs[one.tensor].shape):
            continue
        error = 0.0 if b is None else _energy(b - truth.outputs[one.tensor], one)
        amplitude = float(np.sqrt(error / np.maximum(size, SMALLEST)).mean())
        powers.append(amplitude**2)
    return float(np.log(max(np.mean(powers), TINY))) if powers else float(np.log(TINY))


def _energy(values: np.ndarray, one: Watched) -> np.ndarray:
    """``||y||^2`` of each position, in float64 but for what lies along its axis."""
    values = np.atleast_1d(values)
    values = np.moveaxis(values, one.axis, -1).astype(np.promote_types(values.dtype, np.float32), copy=False)
    if one.classes and values.shape[-1] > 1:
        values = values - values.mean(axis=-1, keepdims=True)
    return np.einsum("...i,...i->...", values, values).astype(np.float64)


def divergence(truth: Outputs, found: Outputs, what: Sequence[Watched]) -> float:
    """KL of classes, squared relative error of others; the mean over outputs."""
    parts = []
    for one in what:
        a, b = _pair(truth, found, one)
        if a is None or b is None:
            continue
        if one.classes:
            p, q = log_softmax(a), log_softmax(b)
            parts.append(float((np.exp(p) * (p - q)).sum(axis=-1).mean()))
        else:
            parts.append(float(np.square(a - b).sum() / max(np.square(a).sum(), SMALLEST)))
    return float(np.mean(parts)) if parts else 0.0


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _pair(truth: Outputs, found: Outputs, one: Watched) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Both as float64, logits without their mean, which a Softmax does not see; None where of no use."""
    a, b = truth[one.tensor], found[one.tensor]
    if a.dtype.kind != "f" or a.shape != b.shape or not a.size:
        return None, None
    a, b = np.atleast_1d(a.astype(np.float64)), np.atleast_1d(b.astype(np.float64))
    if one.axis != -1:
        a, b = np.moveaxis(a, one.axis, -1), np.moveaxis(b, one.axis, -1)
    if one.classes and a.shape[-1] > 1:
        a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    return a, b
