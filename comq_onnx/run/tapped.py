"""A model cut back to what some of its tensors need, with those tensors as its outputs."""

from collections.abc import Iterable, Sequence

import onnx
from onnx import ModelProto, NodeProto

from comq_onnx.graph.cut import reads_of

SHAPE_PREFIX = "comq/shape/"


class TappedModel:
    """Gives one graph different outputs, in turn.

    The model it is made from is changed in place: a second copy of the weights would double the memory.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._nodes = [_copied(node) for node in model.graph.node]
        self.inputs = graph_inputs(model)
        """Names of the graph inputs."""

    @property
    def nodes(self) -> Sequence[NodeProto]:
        """All nodes, in topological order."""
        return self._nodes

    def with_outputs(self, names: Sequence[str]) -> ModelProto:
        """The model that computes these tensors and nothing else. Valid until the next call."""
        graph = self._model.graph
        del graph.node[:], graph.output[:]
        graph.node.extend(needed_nodes(self._nodes, names))
        # The runtime infers the types of outputs that declare none.
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return self._model

    def with_shapes(self, names: Sequence[str]) -> ModelProto:
        """The model that computes only the shapes of these tensors, as ``SHAPE_PREFIX + name``."""
        model = self.with_outputs(names)
        del model.graph.output[:]
        shapes = [SHAPE_PREFIX + name for name in names]
        model.graph.node.extend(
            onnx.helper.make_node("Shape", [name], [shape]) for name, shape in zip(names, shapes, strict=True)
        )
        model.graph.output.extend(onnx.ValueInfoProto(name=shape) for shape in shapes)
        return model


def graph_inputs(model: ModelProto) -> tuple[str, ...]:
    """Names of the inputs that must be fed."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(value.name for value in model.graph.input if value.name not in stored)


def fixed_shapes(model: ModelProto) -> bool:
    """Whether all axes of the inputs that must be fed have one size, the first, of samples, apart."""
    fed = set(graph_inputs(model))
    return all(
        dim.HasField("dim_value")
        for value in model.graph.input
        if value.name in fed
        for dim in value.type.tensor_type.shape.dim[1:]
    )


def needed_nodes(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes, in topological order, that these tensors depend on."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(reads_of(node))
    return kept[::-1]


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
