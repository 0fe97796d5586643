"""From a GraphSurgeon graph to protobuf, starting again from the messages that `graph.reader` remembered."""

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from comq_onnx.graph.external import external_file, is_external, point_to, read_external
from comq_onnx.graph.outside import Outside
from comq_onnx.graph.reader import Sources, plain_value, value_type
from comq_onnx.graph.spill import SMALL
from comq_onnx.graph.tensors import SparseStored, Stored, Tensor, values_of


class Writer:
    """Writes the graphs of one model.

    Parameters
    ----------
    sources
        What the reader remembered.
    embed
        Whether values that lie in external files are read into the message; if not, it refers to those files
        by their absolute path. Small ones are read always; those that a message in memory names by an
        absolute path were put there to be out of memory, and stay.
    left_out
        Names, by id, that stand for constants which are not to be written at all.
    outside
        Takes the values of large initializers that are computed, or that were made anew.
    """

    def __init__(
        self,
        sources: Sources,
        embed: bool,
        left_out: dict[int, str] | None = None,
        outside: Outside | None = None,
    ) -> None:
        self.sources = sources
        self.embed = embed
        self.left_out = left_out or {}
        self.outside = outside
        self.homes: dict[int, int] = {}

    def write(self, graph: gs.Graph, proto: onnx.GraphProto) -> None:
        """Write `graph`, the main one, into the empty message `proto`."""
        constants = homes_of(graph, self.homes, self.sources)
        self._graph(graph, proto, constants)

    def _graph(self, graph: gs.Graph, proto: onnx.GraphProto, constants: dict[int, gs.Constant]) -> None:
        _, source = self.sources.graphs.get(id(graph), (None, None))
        proto.name = graph.name
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        if source is not None:
            proto.metadata_props.extend(source.metadata_props)
            proto.quantization_annotation.extend(source.quantization_annotation)
        for node in graph.nodes:
            self._node(node, proto.node.add(), constants)
        for tensor in graph.inputs:
            proto.input.append(self._value(tensor, self.sources.values))
        for tensor in graph.outputs:
            proto.output.append(self._value(tensor, self.sources.outputs))
        known = [key for key in self.sources.constants if key in constants]
        for key in dict.fromkeys((*known, *constants)):
            constant = constants[key]
            if self.homes[key] == id(graph) and key not in self.left_out:
                self._constant(constant, proto)
        proto.value_info.extend(self._known_values(graph, constants))

    def _node(self, node: gs.Node, proto: onnx.NodeProto, constants: dict[int, gs.Constant]) -> None:
        _, source = self.sources.nodes.get(id(node), (None, None))
        proto.op_type = node.op
        # An empty field that is present differs from one that is absent, so only what is there is set.
        for field, text in (("name", node.name), ("domain", node.domain)):
            if text or (source is not None and source.HasField(field)):
                setattr(proto, field, text or "")
        proto.input.extend(self.left_out.get(id(tensor)) or str(tensor.name) for tensor in node.inputs)
        proto.output.extend(str(tensor.name) for tensor in node.outputs)
        before: dict[str, AttributeProto] = {}
        if source is not None:
            for field in ("doc_string", "overload"):
                if source.HasField(field):
                    setattr(proto, field, getattr(source, field))
            proto.metadata_props.extend(source.metadata_props)
            before = {attribute.name: attribute for attribute in source.attribute}
        for name, value in node.attrs.items():
            if isinstance(value, gs.Graph):
                attribute = proto.attribute.add(name=name, type=AttributeProto.GRAPH)
                self._graph(value, attribute.g, constants)
            elif isinstance(value, gs.Constant):
                attribute = proto.attribute.add(name=name, type=AttributeProto.TENSOR)
                self._tensor(value, attribute.t)
            else:
                proto.attribute.append(_attribute(name, value, before.get(name)))

    def _constant(self, constant: gs.Constant, proto: onnx.GraphProto) -> None:
        values = constant._values
        if not isinstance(values, SparseStored):
            tensor = proto.initializer.add()
            self._tensor(constant, tensor)
            if self.outside is not None:
                self.outside.take(tensor)
            return
        sparse = proto.sparse_initializer.add()
        sparse.dims.extend(values.shape)
        self._stored(Stored(values.sparse.values, values.folder), sparse.values)
        self._stored(Stored(values.sparse.indices, values.folder), sparse.indices)
        sparse.values.name = constant.name

    def _tensor(self, constant: gs.Constant, proto: TensorProto) -> None:
        values = constant._values
        if isinstance(values, Stored):
            self._stored(values, proto)
        else:
            proto.CopyFrom(numpy_helper.from_array(values_of(constant)))
        if constant.name or proto.HasField("name"):
            proto.name = constant.name

    def _stored(self, values: Stored, proto: TensorProto) -> None:
        proto.CopyFrom(values.tensor)
        if not is_external(values.tensor):
            return
        kept_out = values.folder is None  # only an absolute path can be followed from there
        if values.nbytes <= SMALL or (self.embed and not kept_out):
            proto.ClearField("external_data")
            proto.ClearField("data_location")
            proto.raw_data = read_external(values.tensor, values.folder, values.nbytes)
        else:
            path, offset, _ = external_file(values.tensor, values.folder)
            point_to(proto, str(path.resolve()), offset, values.nbytes)

    def _value(self, tensor: Tensor, sources: dict[int, tuple[Tensor, ValueInfoProto]]) -> ValueInfoProto:
        _, source = sources.get(id(tensor), (None, None))
        if source is not None and (isinstance(tensor, gs.Constant) or value_type(source) == _type_of(tensor)):
            info = ValueInfoProto()
            info.CopyFrom(source)
            info.name = tensor.name
            return info
        return _new_value(tensor)

    def _known_values(self, graph: gs.Graph, constants: dict[int, gs.Constant]) -> Iterator[ValueInfoProto]:
        """What the file said of the tensors that still exist; nothing is added to it."""
        ends = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
        stored = [
            t for key, t in constants.items() if self.homes[key] == id(graph) and key not in self.left_out
        ]
        for tensor in (*(t for node in graph.nodes for t in node.outputs), *stored):
            if id(tensor) in self.sources.values and id(tensor) not in ends:
                yield self._value(tensor, self.sources.values)


def homes_of(graph: gs.Graph, homes: dict[int, int], sources: Sources) -> dict[int, gs.Constant]:
    """The constants that `graph` and its subgraphs read, by id; `homes` gets the graph each belongs to.

    A constant belongs to the graph it was read from; a new one to the graph whose nodes read it, or to the
    innermost one that encloses all its readers.
    """
    found = {id(t): t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    found.update((id(t), t) for t in graph.outputs if isinstance(t, gs.Constant))
    here = set(found)
    seen: set[int] = set()
    for subgraph in graph.subgraphs():
        below = homes_of(subgraph, homes, sources)
        here |= seen & below.keys()
        here |= {key for key in below if sources.homes.get(key) == id(graph)}
        seen |= below.keys()
        for key, constant in below.items():
            found.setdefault(key, constant)
    homes.update((key, id(graph)) for key in here)
    return found


def _attribute(name: str, value: Any, source: AttributeProto | None) -> AttributeProto:
    if isinstance(value, AttributeProto):
        return value
    if source is not None and plain_value(source) == value:
        return source
    if isinstance(value, list) and not value:
        kind = source.type if source is not None else AttributeProto.INTS
        return helper.make_attribute(name, value, attr_type=kind)
    return helper.make_attribute(name, value)


def _type_of(tensor: Tensor) -> tuple[Any, Any, str]:
    shape = None if tensor.shape is None else list(tensor.shape)
    return tensor.dtype, shape, getattr(tensor, "type", "tensor_type")


def _new_value(tensor: Tensor) -> ValueInfoProto:
    if tensor.dtype is None:
        return helper.make_empty_tensor_value_info(tensor.name)
    elem_type = (
        tensor.dtype if isinstance(tensor.dtype, int) else helper.np_dtype_to_tensor_dtype(tensor.dtype)
    )
    return helper.make_tensor_value_info(tensor.name, elem_type, tensor.shape)
