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
    probabilities: Mapping[str, np.ndarray]
    """Softmax of what holds logits, along the last axis"""


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
    """What others are compared with; worked out once, for many networks."""
    watched_ = [one for one in what if outputs[one.tensor].dtype.kind == "f" and outputs[one.tensor].size]
    energies = {one.tensor: _energy(outputs[one.tensor], one) for one in watched_}
    classes = [one for one in watched_ if one.classes]
    return Truth(outputs, energies, {one.tensor: _softmax(outputs[one.tensor], one) for one in classes})


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
    values = _along_last(values, one)
    if one.classes and values.shape[-1] > 1:
        values = values - values.mean(axis=-1, keepdims=True)
    return np.einsum("...i,...i->...", values, values).astype(np.float64)


def divergence(truth: Truth, found: Outputs, what: Sequence[Watched]) -> float:
    """KL of classes, squared relative error of others; the mean over outputs."""
    parts = []
    for one in what:
        if one.tensor not in truth.energies or found[one.tensor].shape != truth.outputs[one.tensor].shape:
            continue
        error = found[one.tensor] - truth.outputs[one.tensor]
        if one.classes:
            parts.append(_kl(truth.probabilities[one.tensor], _along_last(error, one)))
        else:
            parts.append(float(_energy(error, one).sum() / max(truth.energies[one.tensor].sum(), SMALLEST)))
    return float(np.mean(parts)) if parts else 0.0


def _kl(p: np.ndarray, moved: np.ndarray) -> float:
    """``KL(p || q)``, the mean over positions, where q's logits are p's and `moved`.

    ``log sum p exp(d) - sum p d``: of the differences alone, so that float32 does where p and q are close.
    """
    by = moved - np.einsum("...i,...i->...", p, moved)[..., None]
    top = np.maximum(by.max(axis=-1, keepdims=True), 0.0)
    near = np.log1p(np.einsum("...i,...i->...", p, np.expm1(np.minimum(by, 1.0))).astype(np.float64))
    far = np.log(np.einsum("...i,...i->...", p, np.exp(by - top)).astype(np.float64)) + top[..., 0]
    return float(np.where(top[..., 0] <= 1.0, near, far).mean())


def _softmax(values: np.ndarray, one: Watched) -> np.ndarray:
    values = _along_last(values, one)
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def _along_last(values: np.ndarray, one: Watched) -> np.ndarray:
    """The values, at least float32, with the axis of the classes behind the others."""
    values = np.moveaxis(np.atleast_1d(values), one.axis, -1)
    return values.astype(np.promote_types(values.dtype, np.float32), copy=False)
