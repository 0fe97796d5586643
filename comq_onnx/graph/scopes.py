"""A file's graphs as they lie in it, each with what can be looked up by name there."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx


@dataclass(frozen=True)
class Scope:
    """A graph of the file and the names that can be read in it."""

    graph: onnx.GraphProto
    outer: "Scope | None" = None
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """The initializer called `name`, looked up from the inside out."""
        return self.tensors.get(name) or (self.outer.tensor(name) if self.outer else None)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes `name`, looked up from the inside out."""
        return self.producers.get(name) or (self.outer.producer(name) if self.outer else None)


def scopes(graph: onnx.GraphProto, outer: Scope | None = None) -> Iterator[Scope]:
    """`graph` and every graph inside it."""
    here = Scope(graph, outer)
    here.tensors.update((i.name, i) for i in graph.initializer)
    for node in graph.node:
        here.producers.update((name, node) for name in node.output if name)
        for name in filter(None, node.input):  # an empty name is an input left out
            here.readers.setdefault(name, []).append(node)
    yield here
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from scopes(attribute.g, here)


def integer_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node, or `default` where it has none."""
    return next((a.i for a in node.attribute if a.name == name), default)
