"""How many axes the tensors of a graph have, where that can be known without running it."""

import onnx

from comq_onnx.graph.inferred import inferred
from comq_onnx.graph.io import Model, to_proto


def tensor_ranks(model: Model) -> dict[str, int]:
    """Rank by name of every tensor that ONNX shape inference reaches; the others are absent."""
    graphs = graphs_of(inferred(to_proto(model)).graph)
    return {name: rank for graph in graphs for name, rank in _ranks(graph)}


def graphs_of(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """`graph` and every graph inside it."""
    inner = [a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [graph, *(deep for g in inner for deep in graphs_of(g))]


def _ranks(graph: onnx.GraphProto) -> list[tuple[str, int]]:
    infos = [*graph.input, *graph.output, *graph.value_info]
    return [
        (info.name, len(info.type.tensor_type.shape.dim))
        for info in infos
        if info.type.tensor_type.HasField("shape")
    ]
