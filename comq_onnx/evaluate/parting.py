"""Where in the graph two models part: every tensor that bears one name in both, in the order of the graph.

The closeness of tensors does not fall steadily along the graph: a Relu, a normalisation or a residual lets it
rise again. A bisection could end at any place where it crosses the threshold, so all tensors are compared.
And because errors add up, each part of B is run on A's values too, which shows what it loses by itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.closeness import signal_and_noise, sqnr_db
from comq_onnx.evaluate.forced import OWN, cut_at
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
Sums = dict[str, tuple[float, float]]
"""Signal and noise, by tensor"""


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
    own_db: float | None = None
    """What B's nodes between those and this tensor lose by themselves, fed with A's values; None where they
    do not run so"""


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
    """Those that lose most by themselves, the worst first"""


def part(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    inputs: Mapping[str, str],
    batches: Batches,
    threshold_db: float,
) -> Parting:
    """Run both graphs as they are written, without optimisation, and compare tensors of equal names.

    `inputs` are B's names by A's. Only the main graphs are looked at, after functions were inlined. The
    models are changed: tensors become outputs. ComqError where one does not run.
    """
    makers = {name: node for node in _activations(a) for name in node.output if name}
    theirs = {name for node in _activations(b) for name in node.output}
    names = [name for name, node in makers.items() if name in theirs and node.op_type not in NOT_TENSORS]
    mine, its = _tapped(a, names), _tapped(b, names)
    sums, kinds, reshaped = _sums(mine, its, inputs, batches, names)
    found = {name: sqnr_db(*pair) for name, pair in sums.items() if name not in reshaped}
    own = _own(mine, b, {name: kinds[name] for name in found}, inputs, batches)
    compared = tuple(_lines(a, found, own))
    parted = [tensor for tensor in compared if tensor.sqnr_db < threshold_db]
    lossy = [(own[tensor.name], tensor) for tensor in compared if own.get(tensor.name, math.inf) < math.inf]
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
        losses=tuple(tensor for _, tensor in sorted(lossy, key=lambda pair: pair[0])[:SHOWN]),
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
) -> tuple[Sums, dict[str, np.dtype], list[str]]:
    """Sums of floating tensors, their types in B, and tensors of unequal shapes."""
    sums: Sums = {}
    kinds: dict[str, np.dtype] = {}
    reshaped: dict[str, None] = {}
    for batch in batches:
        theirs = renamed(batch, inputs)
        for chunk in _chunks(names):
            mine, its = a.run(batch, chunk), b.run(theirs, chunk)
            for name in chunk:
                x, y = mine[name], its[name]
                if not (_floating(x) and _floating(y)):
                    continue
                _add(sums, name, x, y)
                kinds[name] = y.dtype
                if x.shape != y.shape:
                    reshaped[name] = None
    return sums, kinds, list(reshaped)


def _own(
    a: Session, b: onnx.ModelProto, kinds: Mapping[str, np.dtype], inputs: Mapping[str, str], batches: Batches
) -> dict[str, float]:
    """SQNR of what B's nodes between compared tensors make of A's values, by the tensor made."""
    found: dict[str, float] = {}
    for cut in cut_at(b, kinds, _chunks(list(kinds))):
        sums: Sums = {}
        try:
            session = open_session(cut.model, SessionOptions(optimize=False))
            for batch in batches:
                mine = a.run(batch, list(dict.fromkeys((*cut.reads, *cut.makes))))
                its = session.run(renamed(batch, inputs) | mine)
                for name in cut.makes:
                    _add(sums, name, mine[name], its[OWN + name])
        except ComqError:
            continue  # such as an operator that must know the rank of what it reads
        found |= {name: sqnr_db(*pair) for name, pair in sums.items()}
    return found


def _add(sums: Sums, name: str, x: np.ndarray, y: np.ndarray) -> None:
    signal, noise = sums.get(name, (0.0, 0.0))
    more, new = signal_and_noise(x, y) if x.shape == y.shape else (0.0, math.inf)
    sums[name] = (signal + more, noise + new)


def _chunks(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]


def _floating(value: object) -> bool:
    """Whether it is a tensor at all, and of floats."""
    return isinstance(value, np.ndarray) and is_float(value.dtype)


def _lines(model: onnx.ModelProto, found: Mapping[str, float], own: Mapping[str, float]) -> Iterable[Tensor]:
    """Compared tensors, each with the worst of the nearest ones that it is made of."""
    nearest: dict[str, frozenset[str]] = {}
    passed: dict[str, dict[str, None]] = {}
    for node in model.graph.node:
        reads = sorted(reads_of(node))
        parts = [{name} if name in found else nearest.get(name, frozenset()) for name in reads]
        here: frozenset[str] = frozenset().union(*parts)
        layers = {layer: None for name in reads if name not in found for layer in passed.get(name, ())}
        if node.op_type in WEIGHT_INPUTS or node.op_type in RECURRENT_INPUTS:
            layers[node.name or node.output[0]] = None
        nearest.update((name, here) for name in node.output if name)
        passed.update((name, layers) for name in node.output if name)
        worst = min(here, key=lambda other: (found[other], other), default="")
        before = found.get(worst, math.inf)
        for name in node.output:
            if name in found:
                label = node.name or name
                yield Tensor(
                    name=name,
                    node=label,
                    op=node.op_type,
                    sqnr_db=found[name],
                    made_of=worst,
                    made_of_db=before,
                    layers=tuple(layers),
                    own_db=own.get(name),
                )
