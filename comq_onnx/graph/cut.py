"""Cutting a graph at the inputs of its layers, so that each node runs once however many layers there are.

Layers are taken in order of execution. To have the input of the next one, the nodes it depends on are run,
those of layers already quantized among them; whatever other layers' inputs are there by then belong to the
same segment. Nothing is run before it is needed, which keeps few tensors alive.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from onnx import GraphProto, NodeProto, TensorProto

from comq_onnx.graph.tensors import Stored
from comq_onnx.records import Layer

RANDOM_OPS = frozenset(
    ("RandomNormalLike", "RandomUniformLike", "RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")
)
NOT_TENSORS = frozenset(
    ("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap")
    + ("SplitToSequence", "Optional")
)
"""Operators whose outputs are sequences or optionals, which no session takes from another."""

SELECTIONS = frozenset(("NonZero", "Unique", "NonMaxSuppression"))
"""Operators whose outputs have as many rows as the values of their inputs say"""


@dataclass(frozen=True)
class Segment:
    """Nodes that are run together, once for each batch and network, and what is done after them."""

    nodes: tuple[NodeProto, ...]
    layers: tuple[Layer, ...]
    """Layers whose input is there when the nodes have run, to be solved then; may be empty."""
    residuals: Mapping[str, str]
    """The tensors that outputs of these layers will be added to, where they are there too, by layer name"""
    stops: tuple[str, ...]
    """Tensors asked for that the last of the nodes makes; nothing that reads them is run before"""
    reads: tuple[str, ...]
    """Tensors made by earlier segments, or inputs of the graph"""
    keeps: tuple[str, ...]
    """Tensors made here that a later segment, or the solving of `layers`, reads, and `stops`"""
    last_reads: tuple[str, ...]
    """Those of `reads` that nobody reads again, not even `layers`"""
    frees: tuple[str, ...]
    """Tensors that nobody reads once `layers` are solved and `stops` seen"""
    shared: bool
    """Whether no quantized layer comes before these nodes: float and quantized network agree here"""


def cut(
    graph: GraphProto,
    layers: Sequence[Layer],
    stops: Sequence[str] = (),
    held: Mapping[str, Sequence[str]] | None = None,
) -> list[Segment]:
    """The segments of a topologically sorted graph, in order.

    A segment ends where one of the tensors `stops`, made by nodes, is there. `held` names, by layer, tensors
    that are to be there still when that layer is solved.

    Nodes that no layer's input depends on are in none of them. Layers inside subgraphs and gathers are not
    solved on activations: they are in no segment's `layers`, but their nodes count as quantized.
    """
    steps = _steps(graph, layers, added_to(graph, layers), stops)
    tapped = [_tapped(step, held or {}) for step in steps]
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    made_at = dict.fromkeys(inputs, -1)
    last: dict[str, int] = {}
    for at, step in enumerate(steps):
        made_at |= {name: at for node in step.nodes for name in node.output if name}
        used = {name for node in step.nodes for name in reads_of(node)} | set(tapped[at])
        last |= {name: at for name in used if name in made_at}
    return [_segment(at, step, (tapped[at], made_at, last)) for at, step in enumerate(steps)]


def streamed(layer: Layer) -> bool:
    """Whether a layer is solved on activations of the main graph."""
    return not layer.in_subgraph and layer.layout.kind != "gather"


def refusal(graph: GraphProto, layers: Sequence[Layer]) -> str:
    """Why the graph cannot be run in segments, as a clause; empty if nothing speaks against it.

    Random nodes would give the float and the quantized network different numbers, and a selection by value
    different rows. What comes before all quantized layers is run once for both, and so does no harm; nor do
    nodes that no layer depends on, or sequences that begin and end within a segment.
    """
    off = {tensor.name for tensor in graph.initializer if _is_false(tensor)}
    segments = cut(graph, layers)
    if why := uncuttable(segments):
        return why
    for segment in segments:
        for node in segment.nodes:
            inner = (n for body in _bodies(node) for n in every_node(body.node))
            for each in () if segment.shared else (node, *inner):
                name = f"'{each.name}' ({each.op_type})"
                training = each.op_type == "Dropout" and len(each.input) > 2 and each.input[2]
                if each.op_type in RANDOM_OPS or (training and each.input[2] not in off):
                    return f"{name} makes other numbers on every run"
                if each.op_type in SELECTIONS:
                    return f"{name} selects by value, which the two networks may do differently"
    return ""


def uncuttable(segments: Sequence[Segment]) -> str:
    """Why not even one network can be run in these segments, as a clause; empty where nothing is known."""
    for segment in segments:
        for node in segment.nodes:
            if node.op_type in NOT_TENSORS and not set(segment.keeps).isdisjoint(node.output):
                return f"'{node.name}' ({node.op_type}) makes something other than a tensor"
    return ""


def reads_of(node: NodeProto) -> set[str]:
    """Tensors a node reads, those that its subgraphs take from outside among them."""
    names = {name for name in node.input if name}
    for body in _bodies(node):
        names |= {value.name for value in body.output}
        for inner in body.node:
            names |= reads_of(inner)
    return names


def added_to(graph: GraphProto, layers: Sequence[Layer]) -> dict[str, str]:
    """The activation that a layer's output alone is added to, as in a residual block, by layer name.

    Additions of constants in between, a bias, are passed. Whether shapes are equal is not known here.
    """
    constants = {tensor.name for tensor in graph.initializer}
    kept = {value.name for value in graph.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in reads_of(node):
            readers.setdefault(name, []).append(node)
    output = {node.name: node.output[0] for node in graph.node if node.output}
    found = {}
    for layer in filter(streamed, layers):
        name = output[layer.name]
        while name not in kept and len(readers.get(name, ())) == 1 and readers[name][0].op_type == "Add":
            node = readers[name][0]
            others = [other for other in node.input if other != name]
            if len(others) == 1 and others[0] not in constants:
                found[layer.name] = others[0]
            if len(others) != 1 or others[0] not in constants:
                break
            name = node.output[0]
    return found


@dataclass(frozen=True)
class _Step:
    nodes: tuple[NodeProto, ...]
    layers: tuple[Layer, ...]
    residuals: Mapping[str, str]
    stops: tuple[str, ...]
    shared: bool

    @property
    def tapped(self) -> tuple[str, ...]:
        """Tensors that are looked at after the nodes have run."""
        inputs = (layer.input for layer in self.layers)
        return tuple(dict.fromkeys((*inputs, *self.residuals.values(), *self.stops)))


class _Wanted(NamedTuple):
    """A tensor that has to be there: the input of a layer, or a stop, which has none."""

    place: int
    """Of the layer's node, or of the one that makes the stop"""
    tensor: str
    layer: Layer | None


def _steps(
    graph: GraphProto, layers: Sequence[Layer], residuals: Mapping[str, str], stops: Sequence[str]
) -> list[_Step]:
    """What is run and solved, in order."""
    nodes = list(graph.node)
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    touched = touched_nodes(nodes, layers)
    # What no layer has touched is the same in both networks.
    residuals = {name: tensor for name, tensor in residuals.items() if maker.get(tensor, -1) in touched}
    place = {node.name: i for i, node in enumerate(nodes)}
    wanted = [_Wanted(place[layer.name], layer.input, layer) for layer in layers if streamed(layer)]
    # What reads a stop, and so what depends on one, has a later place: a stop is reached before it is passed.
    wanted += [_Wanted(maker[name], name, None) for name in stops]
    pending = sorted(wanted, key=lambda want: want.place)
    # Inputs of the graph, which nobody makes, are there from the start.
    done = {-1}
    ran = {-1}
    steps = []
    while pending:
        first = pending[0]
        residual_of_first = residuals.get(first.layer.name, "") if first.layer else ""
        # Neither a layer still to be solved nor a stop may lie before a residual; it may be a stop itself.
        barred = {want.place for want in pending if want.layer or want.tensor != residual_of_first}
        needed = _ancestors(nodes, maker, first.tensor, done)
        residual = _ancestors(nodes, maker, residual_of_first, done)
        done |= needed if residual & barred else needed | residual
        fresh = done - ran
        ran |= fresh
        there = [want for want in pending if maker.get(want.tensor, -1) in done]
        pending = [want for want in pending if maker.get(want.tensor, -1) not in done]
        ready = tuple(want.layer for want in there if want.layer)
        reached = tuple(want.tensor for want in there if not want.layer)
        beside = {
            layer.name: residuals[layer.name]
            for layer in ready
            if layer.name in residuals and maker.get(residuals[layer.name], -1) in done
        }
        apart = tuple(nodes[i] for i in sorted(fresh) if i not in touched)
        rest = tuple(nodes[i] for i in sorted(fresh) if i in touched)
        last = _Step(rest, ready, beside, reached, not rest)
        if apart and rest:
            steps += [_Step(apart, (), {}, (), True), last]
        else:
            steps.append(replace(last, nodes=apart or rest))
    return steps


def touched_nodes(nodes: Sequence[NodeProto], layers: Sequence[Layer]) -> set[int]:
    """Places of nodes whose outputs differ once layers are quantized: layers, and all that depends on one."""
    names = {layer.name for layer in layers}
    tensors: set[str] = set()
    found = set()
    for i, node in enumerate(nodes):
        inner = (n.name for body in _bodies(node) for n in every_node(body.node))
        if node.name in names or not names.isdisjoint(inner) or not tensors.isdisjoint(reads_of(node)):
            found.add(i)
            tensors.update(name for name in node.output if name)
    return found


def _ancestors(nodes: Sequence[NodeProto], maker: dict[str, int], tensor: str, done: set[int]) -> set[int]:
    """The nodes not yet run that `tensor` depends on."""
    found: set[int] = set()
    queue = [tensor]
    while queue:
        i = maker.get(queue.pop(), -1)
        if i >= 0 and i not in found and i not in done:
            found.add(i)
            queue.extend(reads_of(nodes[i]))
    return found


def _tapped(step: _Step, held: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The tensors that must be there when the nodes of a step have run, in order."""
    kept = (name for layer in step.layers for name in held.get(layer.name, ()))
    return tuple(dict.fromkeys((*step.tapped, *kept)))


def _segment(
    at: int, step: _Step, tensors: tuple[tuple[str, ...], dict[str, int], dict[str, int]]
) -> Segment:
    nodes, (tapped, made_at, last) = step.nodes, tensors
    read = dict.fromkeys(name for node in nodes for name in sorted(reads_of(node)))
    reads = tuple(name for name in read if made_at.get(name, at) < at)
    made = [name for node in nodes for name in node.output if name]
    keeps = tuple(name for name in made if last.get(name, -1) > at or name in tapped)
    over = tuple(name for name in reads if last[name] == at and name not in tapped)
    frees = tuple(name for name in tapped if last[name] == at)
    return Segment(
        nodes=nodes,
        layers=step.layers,
        residuals=step.residuals,
        stops=step.stops,
        reads=reads,
        keeps=keeps,
        last_reads=over,
        frees=frees,
        shared=step.shared,
    )


def _is_false(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.BOOL and not Stored(tensor).load().any()


def _bodies(node: NodeProto) -> list[GraphProto]:
    return [
        body
        for attribute in node.attribute
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]


def every_node(nodes: Iterable[NodeProto]) -> Iterable[NodeProto]:
    """`nodes`, and those in their bodies."""
    for node in nodes:
        yield node
        for body in _bodies(node):
            yield from every_node(body.node)
