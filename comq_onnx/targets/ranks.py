"""How many axes the tensors of a graph have, where that can be known without running it."""

import onnx

from comq_onnx.graph.io import Model, to_proto
from comq_onnx.graph.tensors import stored_bytes

SHAPE_BYTES = 1024
"""Shapes, axes and indices are smaller than this; anything larger is a weight that inference need not see."""


def tensor_ranks(model: Model) -> dict[str, int]:
    """Rank by name of every tensor that ONNX shape inference reaches; the others are absent."""
    inferred = onnx.shape_inference.infer_shapes(without_weights(to_proto(model)))
    return {name: rank for graph in graphs_of(inferred.graph) for name, rank in _ranks(graph)}


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with its large initializers as inputs of their type and shape, to fit inference's 2 GB."""
    weights = [i for i in proto.graph.initializer if stored_bytes(i) > SHAPE_BYTES]
    kept = [i for i in proto.graph.initializer if stored_bytes(i) <= SHAPE_BYTES]
    have = {i.name for i in proto.graph.input}
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(w.name, w.data_type, list(w.dims))
        for w in weights
        if w.name not in have
    )
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto


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
