"""Which layers feed which: pairs of neighbours along the graph, and those that can be solved together."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from comq_onnx.graph.cut import reads_of, streamed
from comq_onnx.records import Layer

UNARY = frozenset(
    ("Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh")
    + ("Gelu", "Softplus", "Softsign", "Erf", "Mish", "ThresholdedRelu", "PRelu", "Abs", "Neg", "Exp")
    + ("Identity", "Cast", "BatchNormalization")
)
"""Operators whose every output entry depends on the one input entry at its place, and on constants."""
BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"))
"""The same, where the other operand is constant or made from the same entry, as in ``x * sigmoid(x)``."""


@dataclass(frozen=True)
class Pair:
    """Two layers, the input of the second depending on the output of the first through no other layer."""

    first: str
    second: str
    nodes: tuple[NodeProto, ...] = ()
    """What lies between them, in order, where they can be solved together; else nothing"""
    refusal: str = ""
    """Why they cannot, as a clause; empty if they can"""


def adjacent(graph: GraphProto, layers: Sequence[Layer]) -> list[Pair]:
    """All pairs of neighbours among the layers of a topologically sorted main graph, in order of the second.

    Layers inside subgraphs and gathers are no modules: what they make counts as made by their node.
    """
    modules = {layer.name: layer for layer in layers if streamed(layer)}
    maker = {name: node for node in graph.node for name in node.output if name}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in reads_of(node):
            readers[name].append(node)
    fixed = {value.name for value in graph.output}, {tensor.name for tensor in graph.initializer}
    order = {node.name: i for i, node in enumerate(graph.node)}
    pairs = []
    for second in sorted(modules.values(), key=lambda layer: order[layer.name]):
        for name in sorted(_sources(second.input, maker, modules), key=order.__getitem__):
            between, why = _between(modules[name], second, readers, fixed)
            pairs.append(Pair(name, second.name, between, why))
    return pairs


def _sources(tensor: str, maker: dict[str, NodeProto], modules: dict[str, Layer]) -> set[str]:
    """The layers that a tensor depends on through nodes that are no layers."""
    found: set[str] = set()
    seen: set[str] = set()
    queue = [tensor]
    while queue:
        name = queue.pop()
        node = maker.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.name in modules:
            found.add(node.name)
        else:
            queue.extend(reads_of(node))
    return found


def _between(
    first: Layer, second: Layer, readers: dict[str, list[NodeProto]], fixed: tuple[set[str], set[str]]
) -> tuple[tuple[NodeProto, ...], str]:
    """The nodes from `first` to `second`, or why the two cannot be solved together."""
    (results, constants), why = fixed, _kinds(first, second)
    made, found = [first.output], []
    for tensor in made if not why else ():  # grows with the nodes that are found to read them
        if tensor in results or not readers[tensor]:
            return (), f"'{tensor}' goes elsewhere"
        for node in readers[tensor]:
            if node.name == second.name and tensor == second.input:
                continue
            if tensor == second.input or node.op_type not in UNARY | BINARY or len(node.output) > 1:
                return (), f"'{node.name or node.op_type}' ({node.op_type}) reads '{tensor}' too"
            if node not in found:
                found.append(node)
                made.append(node.output[0])
    if not why and second.input not in made:
        why = f"'{second.input}' is not made entry by entry"
    strange = {name for node in found for name in reads_of(node)} - set(made) - constants
    if not why and strange:
        why = f"'{min(strange)}' comes in between"
    return ((), why) if why else (_sorted(found), "")


def _sorted(nodes: list[NodeProto]) -> tuple[NodeProto, ...]:
    """The nodes in an order that can be run."""
    waiting = {node.output[0] for node in nodes}
    ordered: list[NodeProto] = []
    while len(ordered) < len(nodes):
        ready = next(n for n in nodes if n.output[0] in waiting and waiting.isdisjoint(reads_of(n)))
        waiting.remove(ready.output[0])
        ordered.append(ready)
    return tuple(ordered)


def _kinds(first: Layer, second: Layer) -> str:
    kinds = {first.layout.kind, second.layout.kind}
    batched = any(layer.layout.kind == "matmul" and layer.layout.groups > 1 for layer in (first, second))
    if batched or kinds not in ({"conv"}, {"matmul"}):
        return "they are not both convolutions or both plain products"
    if second.layout.kind == "conv" and second.layout.shape[1] == 1:
        return f"'{second.name}' keeps its input channels apart"
    return ""
