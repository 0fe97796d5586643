"""From protobuf to a GraphSurgeon graph, keeping what GraphSurgeon has no place for.

GraphSurgeon's own importer drops documentation, metadata, attributes of rarer types, and the types of
sequences and optionals. This one builds the same objects and remembers, in `Sources`, the protobuf message
each came from; `graph.writer` starts from that message again.
"""

from collections import ChainMap
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, ValueInfoProto

from comq_onnx.errors import ComqError
from comq_onnx.graph.tensors import SparseStored, Stored, Tensor, numpy_dtype

Scope = ChainMap[str, Tensor]
Known = dict[str, ValueInfoProto]


@dataclass
class Sources:
    """The messages that graphs, nodes and typed tensors were read from, by ``id`` of the object.

    Each entry holds its object as well, so that an id is never used twice.
    """

    graphs: dict[int, tuple[gs.Graph, onnx.GraphProto]] = field(default_factory=dict)
    nodes: dict[int, tuple[gs.Node, onnx.NodeProto]] = field(default_factory=dict)
    values: dict[int, tuple[Tensor, ValueInfoProto]] = field(default_factory=dict)
    outputs: dict[int, tuple[Tensor, ValueInfoProto]] = field(default_factory=dict)
    constants: dict[int, gs.Constant] = field(default_factory=dict)
    homes: dict[int, int] = field(default_factory=dict)
    """Id of the graph that a constant, by id, was read from."""


@dataclass
class Reader:
    """Reads the graphs of one model. `folder` is where its external data lies."""

    opset: int
    folder: Path | None
    sources: Sources = field(default_factory=Sources)

    def read(self, proto: onnx.GraphProto, outer: Scope) -> gs.Graph:
        """One graph; names it does not define are looked up in `outer`."""
        scope: Scope = outer.new_child()
        known = {info.name: info for info in (*proto.output, *proto.value_info)}
        constants = self._constants(proto, known, scope)
        inputs = [
            self._variable(info.name, info, scope) for info in proto.input if info.name not in scope.maps[0]
        ]
        pending: set[str] = set()
        nodes = [self._node(node, scope, known, pending) for node in proto.node]
        if pending:
            raise ComqError(
                f"tensor {min(pending)!r} is read but nothing produces it",
                where=f"graph {proto.name!r}",
                fix="the file is damaged or was cut: export the model again",
            )
        outputs = [self._output(info, scope, proto.name) for info in proto.output]
        graph = gs.Graph(nodes, inputs, outputs, proto.name, proto.doc_string, self.opset)
        self.sources.graphs[id(graph)] = (graph, proto)
        self.sources.constants.update((id(constant), constant) for constant in constants)
        self.sources.homes.update((id(constant), id(graph)) for constant in constants)
        # The order of execution is the order of the list; a file that lists nodes out of order is put right.
        graph.nodes = _in_order(nodes)
        return graph

    def _constants(self, proto: onnx.GraphProto, known: Known, scope: Scope) -> list[gs.Constant]:
        found = [gs.Constant(tensor.name, Stored(tensor, self.folder)) for tensor in proto.initializer]
        for sparse in proto.sparse_initializer:
            found.append(gs.Constant(sparse.values.name, SparseStored(sparse, self.folder)))
        for constant in found:
            scope[constant.name] = constant
            if constant.name in known:
                self.sources.values[id(constant)] = (constant, known[constant.name])
        return found

    def _variable(self, name: str, info: ValueInfoProto | None, scope: Scope) -> gs.Variable:
        variable = gs.Variable(name)
        if info is not None:
            variable.dtype, variable.shape, variable.type = value_type(info)
            self.sources.values[id(variable)] = (variable, info)
        scope[name] = variable
        return variable

    def _output(self, info: ValueInfoProto, scope: Scope, graph: str) -> Tensor:
        tensor = scope.get(info.name)
        if tensor is None:
            raise ComqError(
                f"output {info.name!r} is produced by no node",
                where=f"graph {graph!r}",
                fix="the file is damaged or was cut: export the model again",
            )
        self.sources.outputs[id(tensor)] = (tensor, info)
        return tensor

    def _node(self, proto: onnx.NodeProto, scope: Scope, known: Known, pending: set[str]) -> gs.Node:
        attrs = {attribute.name: self._attribute(attribute, scope) for attribute in proto.attribute}
        inputs = []
        for name in proto.input:
            if name and name not in scope:
                pending.add(name)
                self._variable(name, known.get(name), scope)
            inputs.append(scope[name] if name else gs.Variable.empty())
        outputs = []
        for name in proto.output:
            tensor = scope.maps[0].get(name)
            if name and tensor is not None and name not in pending:
                raise ComqError(
                    f"tensor {name!r} is produced twice",
                    where=f"node {proto.name!r}",
                    fix="export the model again",
                )
            if not name:
                tensor = gs.Variable.empty()
            elif tensor is None:
                tensor = self._variable(name, known.get(name), scope)
            pending.discard(name)
            outputs.append(tensor)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        node = gs.Node(proto.op_type, proto.name, attrs, inputs, outputs, domain)
        self.sources.nodes[id(node)] = (node, proto)
        return node

    def _attribute(self, attribute: AttributeProto, scope: Scope) -> Any:
        if attribute.type == AttributeProto.GRAPH:
            return self.read(attribute.g, scope)
        if attribute.type == AttributeProto.TENSOR:
            return gs.Constant(attribute.t.name, Stored(attribute.t, self.folder))
        return plain_value(attribute)


def plain_value(attribute: AttributeProto) -> Any:
    """The Python value of an attribute that is neither graph nor tensor; the message where there is none."""
    if attribute.ref_attr_name:
        return attribute
    match attribute.type:
        case AttributeProto.INT:
            return attribute.i
        case AttributeProto.FLOAT:
            return attribute.f
        case AttributeProto.INTS:
            return list(attribute.ints)
        case AttributeProto.FLOATS:
            return list(attribute.floats)
        case AttributeProto.STRING | AttributeProto.STRINGS:
            try:
                texts = [text.decode() for text in (attribute.s, *attribute.strings)]
            except UnicodeDecodeError:
                return attribute
            return texts[0] if attribute.type == AttributeProto.STRING else texts[1:]
    return attribute


def value_type(info: ValueInfoProto) -> tuple[Any, Any, str]:
    """Element type, shape and kind of a value, as a `gs.Variable` has them; None where they are not given."""
    kind = info.type.WhichOneof("value") or "tensor_type"
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return None, None, kind
    tensor = getattr(info.type, kind)
    dtype = numpy_dtype(tensor.elem_type, info.name) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return dtype, None, kind
    shape = [getattr(dim, dim.WhichOneof("value") or "", None) for dim in tensor.shape.dim]
    return dtype, shape, kind


def _in_order(nodes: list[gs.Node]) -> list[gs.Node]:
    """`nodes` with every producer before its consumers, otherwise in the order given."""
    place = {id(node): index for index, node in enumerate(nodes)}
    needs = [{place[id(p)] for t in _reads(node) for p in t.inputs if id(p) in place} for node in nodes]
    if all(max(need, default=-1) < index for index, need in enumerate(needs)):
        return nodes
    readers: list[list[int]] = [[] for _ in nodes]
    for index, need in enumerate(needs):
        for producer in need:
            readers[producer].append(index)
    waits = [len(need) for need in needs]
    ready, order = [index for index, count in enumerate(waits) if not count], []
    while ready:
        order.append(index := heappop(ready))
        for reader in readers[index]:
            waits[reader] -= 1
            if not waits[reader]:
                heappush(ready, reader)
    if len(order) < len(nodes):
        raise ComqError("its nodes form a cycle", where="the graph", fix="export the model again")
    return [nodes[index] for index in order]


def _reads(node: gs.Node) -> Iterable[Tensor]:
    yield from node.inputs
    for subgraph in node.subgraphs(recursive=True):
        for inner in subgraph.nodes:
            yield from inner.inputs
        yield from subgraph.outputs
