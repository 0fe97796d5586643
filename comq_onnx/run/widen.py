"""Half-precision models in float32, so that a CPU runs them in full precision.

CPU kernels for float16 and bfloat16 are few, and where they exist they round every intermediate. Statistics
and reference outputs are therefore taken from the float32 form of the graph: the same weights, wider sums.
"""

from collections.abc import Iterable

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, numpy_helper

from comq_onnx.graph.external import is_external
from comq_onnx.graph.outside import Outside
from comq_onnx.graph.tensors import Stored

HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_HALF_DTYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
# Attributes that hold an element type: Cast; the generators, EyeLike, SequenceEmpty; (De)QuantizeLinear;
# Attention. `stash_type` is always wide already.
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "precision", "qk_matmul_precision", "softmax_precision")


def widen(model: onnx.ModelProto, outside: Outside | None = None) -> onnx.ModelProto:
    """A copy with every float16 and bfloat16 turned into float32; the model itself if there is none.

    Initializers, Constant nodes, Cast targets, declared types, inputs, outputs, subgraphs and functions are
    covered. `outside` takes the widened values of initializers that lie in external files.
    """
    if not (_graph_is_half(model.graph) or any(_any_half(f.node) for f in model.functions)):
        return model
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph, outside)
    for function in wide.functions:
        for info in function.value_info:
            _widen_type(info.type)
        for attribute in function.attribute_proto:
            _widen_attribute(attribute)
        _widen_nodes(function.node)
    return wide


def widened(values: np.ndarray) -> np.ndarray:
    """Half-precision values in float32, as a widened model takes them; all others as they are."""
    return values.astype(np.float32) if values.dtype in _HALF_DTYPES else values


def _graph_is_half(graph: GraphProto) -> bool:
    infos = (*graph.input, *graph.output, *graph.value_info)
    return (
        any(tensor.data_type in HALF for tensor in graph.initializer)
        or any(sparse.values.data_type in HALF for sparse in graph.sparse_initializer)
        or any(_type_is_half(info.type) for info in infos)
        or _any_half(graph.node)
    )


def _any_half(nodes: Iterable[NodeProto]) -> bool:
    return any(_attribute_is_half(attribute) for node in nodes for attribute in node.attribute)


def _attribute_is_half(attribute: AttributeProto) -> bool:
    if attribute.type == AttributeProto.INT:
        return attribute.name in TYPE_ATTRIBUTES and attribute.i in HALF
    return (
        any(tensor.data_type in HALF for tensor in _tensors(attribute))
        or any(_graph_is_half(graph) for graph in _graphs(attribute))
        or any(_type_is_half(kind) for kind in _types(attribute))
    )


def _type_is_half(kind: TypeProto) -> bool:
    return any(tensor.elem_type in HALF for tensor in _tensor_types(kind))


def _widen_graph(graph: GraphProto, outside: Outside | None = None) -> None:
    for tensor in graph.initializer:
        apart = is_external(tensor)
        _widen_tensor(tensor)
        if apart and outside is not None:
            outside.take(tensor)
    for sparse in graph.sparse_initializer:
        _widen_tensor(sparse.values)
    for info in (*graph.input, *graph.output, *graph.value_info):
        _widen_type(info.type)
    _widen_nodes(graph.node)


def _widen_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(attribute)


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.INT and attribute.name in TYPE_ATTRIBUTES and attribute.i in HALF:
        attribute.i = TensorProto.FLOAT
    for tensor in _tensors(attribute):
        _widen_tensor(tensor)
    for graph in _graphs(attribute):
        _widen_graph(graph)
    for kind in _types(attribute):
        _widen_type(kind)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in HALF:
        values = Stored(tensor).load().astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _widen_type(kind: TypeProto) -> None:
    for tensor in _tensor_types(kind):
        if tensor.elem_type in HALF:
            tensor.elem_type = TensorProto.FLOAT


def _tensors(attribute: AttributeProto) -> list[TensorProto]:
    one = [attribute.t] if attribute.HasField("t") else []
    sparse = [attribute.sparse_tensor.values] if attribute.HasField("sparse_tensor") else []
    return [*one, *sparse, *attribute.tensors, *(tensor.values for tensor in attribute.sparse_tensors)]


def _graphs(attribute: AttributeProto) -> list[GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _types(attribute: AttributeProto) -> list[TypeProto]:
    return [*([attribute.tp] if attribute.HasField("tp") else []), *attribute.type_protos]


def _tensor_types(kind: TypeProto) -> list:
    """The tensor types inside a type: itself, or those a sequence, an optional or a map is made of."""
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        return [getattr(kind, which)]
    if which in ("sequence_type", "optional_type"):
        return _tensor_types(getattr(kind, which).elem_type)
    if which == "map_type":
        return _tensor_types(kind.map_type.value_type)
    return []
