"""Where in the graph two models part: every tensor that bears one name in both, in the order of the graph.

The closeness of tensors does not fall steadily along the graph: a Relu, a normalisation or a residual lets it
rise again. A bisection could end at any place where it crosses the threshold, so all tensors are compared.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from comq_onnx.evaluate.closeness import measure, sqnr_db
from comq_onnx.evaluate.pairing import renamed
from comq_onnx.graph.cut import NOT_TENSORS, reads_of
from comq_onnx.graph.slots import RECURRENT_INPUTS, WEIGHT_INPUTS
from comq_onnx.run.session import Session, SessionOptions, is_float, open_session
from comq_onnx.run.tapped import graph_inputs

AT_ONCE = 48
"""Tensors fetched by one run"""
SHOWN = 5
"""Losses told"""

Batches = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Tensor:
    """A tensor of one name in both models."""

    name: str
    node: str
    """Name of the node of A that makes it"""
    op: str
    sqnr_db: float
    """Of B's values against A's"""
    made_of: str
    """The worst of the nearest compared tensors that it is computed from; empty for the model's inputs"""
    made_of_db: float
    """Infinite for the model's inputs"""
    layers: tuple[str, ...]
    """Nodes of A with weights between those and this tensor, its own among them: what to keep in more bits"""

    @property
    def loss(self) -> float:
        """How much the relative error grows here: ``|x - y| / |x|`` less that of what it is made of."""
        return relative(self.sqnr_db) - relative(self.made_of_db)


@dataclass(frozen=True)
class Parting:
    """What came of comparing tensors by name."""

    threshold_db: float
    samples: int
    """Batches that were run, at most `compare.LAYER_SAMPLES`"""
    tensors: int
    """Activations of A's main graph"""
    unmatched: int
    """Those that B has no tensor of the name for"""
    reshaped: tuple[str, ...]
    """Those that have another shape in B"""
    compared: tuple[Tensor, ...]
    """Floating tensors of one name and shape, in the order of A's graph"""
    below: int
    """How many of them are below the threshold"""
    first_unequal: Tensor | None
    """The first that is not equal to the last bit"""
    first: Tensor | None
    """The first below the threshold"""
    losses: tuple[Tensor, ...]
    """Those at which the relative error grows most, the worst first"""


def relative(decibel: float) -> float:
    """The relative error that an SQNR stands for."""
    return math.inf if decibel == -math.inf else 10 ** (-decibel / 20)


def part(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    inputs: Mapping[str, str],
    batches: Batches,
    threshold_db: float,
) -> Parting:
    """Run both graphs as they are written, without optimisation, and compare tensors of equal names.

    `a` and `b` are changed: tensors become outputs. `inputs` are B's names by A's. Only the main graphs are
    looked at, after functions were inlined. ComqError where a model does not run.
    """
    makers = {name: node for node in _activations(a) for name in node.output if name}
    theirs = {name for node in _activations(b) for name in node.output}
    names = [name for name, node in makers.items() if name in theirs and node.op_type not in NOT_TENSORS]
    sums, reshaped = _sums(_tapped(a, names), _tapped(b, names), inputs, batches, names)
    found = {name: sqnr_db(*pair) for name, pair in sums.items() if name not in reshaped}
    compared = tuple(_lines(a, makers, found))
    parted = [tensor for tensor in compared if tensor.sqnr_db < threshold_db]
    grown = [tensor for tensor in compared if tensor.loss > 0]
    return Parting(
        threshold_db=threshold_db,
        samples=len(batches),
        tensors=len(makers),
        unmatched=sum(name not in theirs for name in makers),
        reshaped=tuple(reshaped),
        compared=compared,
        below=len(parted),
        first_unequal=next((tensor for tensor in compared if tensor.sqnr_db < math.inf), None),
        first=parted[0] if parted else None,
        losses=tuple(sorted(grown, key=lambda tensor: -tensor.loss)[:SHOWN]),
    )


def _activations(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the main graph that depend on what is fed."""
    moving, found = set(graph_inputs(model)), []
    for node in model.graph.node:
        if moving.intersection(reads_of(node)):
            found.append(node)
            moving.update(name for name in node.output if name)
    return found


def _tapped(model: onnx.ModelProto, names: Iterable[str]) -> Session:
    """A session that can be asked for any of these tensors."""
    known = {output.name for output in model.graph.output}
    # The runtime infers the types of outputs that declare none.
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return open_session(model, SessionOptions(optimize=False))


def _sums(
    a: Session, b: Session, inputs: Mapping[str, str], batches: Batches, names: Sequence[str]
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Signal and noise by tensor, those that are not floating left out; tensors of unequal shapes."""
    sums: dict[str, tuple[float, float]] = {}
    reshaped: dict[str, None] = {}
    for batch in batches:
        theirs = renamed(batch, inputs)
        for start in range(0, len(names), AT_ONCE):
            chunk = names[start : start + AT_ONCE]
            mine, its = a.run(batch, chunk), b.run(theirs, chunk)
            for name in chunk:
                x, y = mine[name], its[name]
                if not (_floating(x) and _floating(y)):
                    continue
                found = measure(x, y, None)
                signal, noise = sums.get(name, (0.0, 0.0))
                sums[name] = signal + found.signal, noise + found.noise
                if not found.alike:
                    reshaped[name] = None
    return sums, list(reshaped)


def _floating(value: object) -> bool:
    """Whether it is a tensor at all, and of floats."""
    return isinstance(value, np.ndarray) and is_float(value.dtype)


def _lines(
    model: onnx.ModelProto, makers: Mapping[str, onnx.NodeProto], found: Mapping[str, float]
) -> Iterable[Tensor]:
    """Compared tensors, each with the worst of the nearest ones that it is made of."""
    nearest: dict[str, frozenset[str]] = {}
    passed: dict[str, dict[str, None]] = {}
    for node in model.graph.node:
        reads = sorted(reads_of(node))
        parts = [{name} if name in found else nearest.get(name, frozenset()) for name in reads]
        here: frozenset[str] = frozenset().union(*parts)
        layers = {k: None for name in reads if name not in found for k in passed.get(name, ())}
        if node.op_type in WEIGHT_INPUTS or node.op_type in RECURRENT_INPUTS:
            layers[node.name or node.output[0]] = None
        nearest.update((name, here) for name in node.output if name)
        passed.update((name, layers) for name in node.output if name)
        for name in node.output:
            if name in found and name in makers:
                worst = min(here, key=lambda other: (found[other], other), default="")
                before = found.get(worst, math.inf)
                yield Tensor(name, node.name or name, node.op_type, found[name], worst, before, tuple(layers))
