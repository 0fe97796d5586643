"""How many axes the tensors of a graph have, where that can be known without running it."""

import onnx

from comq_onnx.graph.io import Model, to_proto
from comq_onnx.graph.opset import without_weights


def tensor_ranks(model: Model) -> dict[str, int]:
    """Rank by name of every tensor that ONNX shape inference reaches; the others are absent."""
    proto = to_proto(model)
    skeleton = without_weights(proto)
    skeleton.graph.value_info.extend(proto.graph.value_info)
    inferred = onnx.shape_inference.infer_shapes(skeleton)
    return {name: rank for graph in graphs_of(inferred.graph) for name, rank in _ranks(graph)}


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
