"""Where things are: every graph of a model, the node of a layer, names that are free."""

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.tensors import Tensor
from comq_onnx.records import Layer


def graphs_of(model: Model) -> Iterator[gs.Graph]:
    """The main graph, then every subgraph, outer before inner, each once."""
    queue = [model.graph]
    while queue:
        graph = queue.pop(0)
        yield graph
        queue.extend(graph.subgraphs())


def nodes_of(model: Model) -> Iterator[tuple[gs.Node, gs.Graph]]:
    """Every node with the graph that holds it, in order of execution; a node comes before those inside it."""
    yield from _walk(model.graph)


def _walk(graph: gs.Graph) -> Iterator[tuple[gs.Node, gs.Graph]]:
    for node in list(graph.nodes):
        yield node, graph
        for subgraph in node.subgraphs():
            yield from _walk(subgraph)


def node_of(model: Model, layer: Layer) -> tuple[gs.Node, gs.Graph]:
    """The node of `layer` and the (sub)graph that holds it; KeyError if the model has no such node.

    Cheap: the index of names is kept on the model and built again only when it no longer fits.
    """
    found = model.index.get(layer.name)
    if found is None or found[0].name != layer.name:
        model.index.clear()
        model.index.update((node.name, (node, graph)) for node, graph in nodes_of(model))
        found = model.index[layer.name]
    return found


def names_in(model: Model) -> set[str]:
    """Every name of a node or tensor, subgraphs included."""
    names = set()
    for graph in graphs_of(model):
        ends: list[Tensor] = [*graph.inputs, *graph.outputs]
        names.update(tensor.name for tensor in ends)
        for node in graph.nodes:
            names.add(node.name)
            names.update(t.name for t in (*node.inputs, *node.outputs))
    return names


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or `wanted` with the first number that makes it free. The answer is added to `taken`."""
    name, number = wanted, 0
    while not name or name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name
