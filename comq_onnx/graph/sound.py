"""Whether a message can be worked with at all: its tensors hold what they declare, its nodes are operators.

Files come from anywhere. What is checked here need not be thought of anywhere else: shapes without negative
sizes, as many values as a shape needs, texts that are UTF-8, attributes and operands that an operator has.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, checker, defs

from comq_onnx.errors import ComqError
from comq_onnx.graph.endless import check_loops
from comq_onnx.graph.external import is_external
from comq_onnx.graph.inline import first_line
from comq_onnx.graph.tensors import numpy_dtype, stored_bytes

AGAIN = "the file is damaged: export or copy the model again"
MOST_BYTES = 1 << 48
"""Of one tensor; NumPy itself counts to 2**63 and raises beyond."""
MOST_SPARSE = 1 << 32
"""Bytes of a sparse tensor made dense: its file need not hold them, so that nothing else bounds them."""
_LISTS: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
}
"""The field that holds an element type's values where they are not raw, and how many of it make an element;
all other types are in int32_data."""


def check_sound(proto: ModelProto) -> None:
    """ComqError where a tensor of the graph does not hold what it declares, or a node is no operator's.

    Data in other files are not looked at (`external.check_external`). Operators that ONNX does not know, and
    deprecated ones, are taken as they are.
    """
    check_names(proto)
    check_tensors(proto.graph)
    for entry in proto.opset_import:
        if not 0 <= entry.version < 1 << 31:
            raise ComqError(
                f"it imports version {entry.version} of the operators of {entry.domain or 'ai.onnx'!r}",
                where="the model",
                fix=AGAIN,
            )
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    context = checker.C.CheckerContext()
    context.ir_version = max(3, min(proto.ir_version, onnx.IR_VERSION))
    context.opset_imports = versions | {"": versions.get("", versions.get("ai.onnx", 1))}
    for node in _nodes(proto.graph):
        _check_node(node, context)
    check_loops(proto.graph)


def check_names(message: Message) -> None:
    """ComqError where a name is no UTF-8, or holds what a terminal would take as a command.

    Documentation and metadata may hold any text.
    """
    if isinstance(message, TensorProto):  # to list a field is to copy it
        _check_name(message.name, "name")
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                check_names(inner)
        elif field.type == FieldDescriptor.TYPE_STRING:
            for text in value if field.is_repeated else (value,):
                _check_name(text, field.name)


def _check_name(text: str | bytes, field: str) -> None:
    # protobuf hands out as bytes what is no UTF-8.
    free = field in ("doc_string", "value", "producer_name", "producer_version")
    if isinstance(text, bytes) or not (free or text.isprintable()):
        raise ComqError(f"the {field} {text!r} is no printable text", where="the model", fix=AGAIN)


def check_tensors(graph: GraphProto) -> None:
    """ComqError where a tensor of the graph or of those inside it does not hold what it declares."""
    for tensor in graph.initializer:
        check_tensor(tensor)
    for sparse in graph.sparse_initializer:
        check_sparse(sparse)
    for node in graph.node:
        for attribute in node.attribute:
            for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
                check_tensor(tensor)
            if attribute.HasField("sparse_tensor"):
                check_sparse(attribute.sparse_tensor)
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                check_tensors(inner)


def check_tensor(tensor: TensorProto) -> None:
    """ComqError unless shape, element type and data of a tensor go together."""
    where = f"tensor {tensor.name!r}"
    numpy_dtype(tensor.data_type, tensor.name)
    if tensor.HasField("segment"):
        raise ComqError("it is a segment of a tensor, which nothing reads", where=where, fix=AGAIN)
    _check_dims(tensor.dims, where)
    count = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        _check_texts(tensor, count, where)
        return
    needed = stored_bytes(tensor)
    if needed > MOST_BYTES:
        raise ComqError(f"its shape {list(tensor.dims)} is of {needed:,} bytes", where=where, fix=AGAIN)
    if is_external(tensor):
        return
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != needed:
            raise ComqError(
                f"it holds {len(tensor.raw_data)} bytes where its shape {list(tensor.dims)} needs {needed}",
                where=where,
                fix=AGAIN,
            )
        return
    field, each = _LISTS.get(tensor.data_type, ("int32_data", 1))
    # Types below a byte are packed, as many as go into one, which makes their bytes their count.
    wanted = needed if needed < count else count * each
    held = len(getattr(tensor, field))
    if held != wanted:
        raise ComqError(
            f"it holds {held} values where its shape {list(tensor.dims)} needs {wanted}",
            where=where,
            fix=AGAIN,
        )


def check_sparse(sparse: onnx.SparseTensorProto) -> None:
    """ComqError unless the indices of a sparse tensor are whole numbers within its shape."""
    where = f"sparse tensor {sparse.values.name!r}"
    for tensor in (sparse.values, sparse.indices):
        check_tensor(tensor)
    _check_dims(sparse.dims, where)
    count, rank = math.prod(sparse.dims), len(sparse.dims)
    if sparse.values.data_type == TensorProto.STRING or sparse.indices.data_type != TensorProto.INT64:
        raise ComqError("it is no tensor of numbers with int64 indices", where=where, fix=AGAIN)
    if count * numpy_dtype(sparse.values.data_type).itemsize > MOST_SPARSE:
        raise ComqError(
            f"its shape {list(sparse.dims)} is too large to be made dense", where=where, fix=AGAIN
        )
    if is_external(sparse.values) or is_external(sparse.indices):
        raise ComqError("its values lie in another file", where=where, fix="store them in the model")
    index, stored = onnx.numpy_helper.to_array(sparse.indices), math.prod(sparse.values.dims)
    fits = index.shape in ((stored,), (stored, rank))
    top = count if index.ndim == 1 else np.array(sparse.dims)
    if not fits or (index < 0).any() or (index >= top).any():
        raise ComqError("its indices do not fit its shape", where=where, fix=AGAIN)


def _check_dims(dims: Iterable[int], where: str) -> None:
    shape = list(dims)
    if any(size < 0 for size in shape):
        raise ComqError(f"its shape {shape} has a negative size", where=where, fix=AGAIN)
    if math.prod(size for size in shape if size) > MOST_BYTES:  # one size of 0 makes NumPy no wiser
        raise ComqError(f"its shape {shape} is larger than any tensor", where=where, fix=AGAIN)
    if len(shape) > 64:
        raise ComqError(f"it has {len(shape)} dimensions", where=where, fix=AGAIN)


def _check_texts(tensor: TensorProto, count: int, where: str) -> None:
    if len(tensor.string_data) != count and not is_external(tensor):
        raise ComqError(
            f"it holds {len(tensor.string_data)} texts where its shape {list(tensor.dims)} needs {count}",
            where=where,
            fix=AGAIN,
        )
    try:
        for text in tensor.string_data:
            text.decode()
    except UnicodeDecodeError:
        raise ComqError("its texts are not UTF-8", where=where, fix=AGAIN) from None


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes(inner)


def _check_node(node: NodeProto, context: checker.C.CheckerContext) -> None:
    """ComqError where a node has not the operands and attributes that its operator has.

    ONNX's own check, as onnxruntime makes it too, on a node without graphs and values in it: graphs have
    their turn, and values were looked at.
    """
    if node.domain not in ("", "ai.onnx"):
        return
    try:
        if defs.get_schema(node.op_type, context.opset_imports[""]).deprecated:
            return
    except (defs.SchemaError, TypeError):  # of no operator, or of an opset that is no number for ONNX
        return
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise ComqError(
                f"its attribute {attribute.name!r} is that of a function, which it is in none of",
                where=f"node {node.name!r}",
                fix=AGAIN,
            )
    bare = NodeProto(op_type=node.op_type, name=node.name, input=node.input, output=node.output)
    bare.attribute.extend(map(_emptied, node.attribute))
    try:
        checker.check_node(bare, context)
    except checker.ValidationError as error:
        raise ComqError(
            f"it is no valid {node.op_type} ({first_line(error)})",
            where=f"node {node.name!r}",
            fix="export the model again",
        ) from None


def _emptied(attribute: AttributeProto) -> AttributeProto:
    if not (attribute.HasField("g") or attribute.HasField("t") or attribute.HasField("sparse_tensor")):
        return attribute
    empty = AttributeProto(name=attribute.name, type=attribute.type)
    if attribute.HasField("g"):
        empty.g.name = "graph"
    if attribute.HasField("t"):
        empty.t.CopyFrom(TensorProto(data_type=TensorProto.FLOAT, dims=[0]))
    if attribute.HasField("sparse_tensor"):
        empty.sparse_tensor.CopyFrom(_EMPTY_SPARSE)
    return empty


_EMPTY_SPARSE = onnx.helper.make_sparse_tensor(
    onnx.helper.make_tensor("values", TensorProto.FLOAT, [0], []),
    onnx.helper.make_tensor("indices", TensorProto.INT64, [0], []),
    [1],
)
