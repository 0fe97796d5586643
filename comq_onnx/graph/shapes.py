"""Shapes of a graph's tensors once those of its inputs are fixed, without running it.

ONNX's own inference gives up where an exporter computes a shape from another. Node by node, what can be
computed from shapes and constants is computed, and inference told of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from comq_onnx.graph.opset import without_weights

SHAPE_ARITHMETIC = frozenset(
    ("Add", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor")
    + ("Gather", "Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Range")
    + ("ReduceProd", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose")
    + ("Unsqueeze", "Where")
)
"""Operators that exporters compute shapes with."""
LARGEST = 1 << 62
"""Elements that NumPy can count"""
MOST = 4096
"""Elements of a tensor whose values are followed."""
UNKNOWN = (
    *(onnx.defs.SchemaError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError),
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
)
"""What inference and the reference raise where they cannot tell, or where a runtime would not run the node"""
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class TensorShape:
    """Element type and shape of a tensor."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


def known_shapes(proto: ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, TensorShape]:
    """Shape by name of every tensor of the main graph that can be told from the shapes of its `inputs`.

    Initializers are among them; tensors that depend on values, or on operators that ONNX does not know, are
    absent. `proto` is topologically sorted and is not changed.
    """
    skeleton = without_weights(proto)
    types = {info.name: _fixed(info.type, inputs.get(info.name)) for info in skeleton.graph.input}
    values: Values = {}
    for tensor in skeleton.graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        if math.prod(tensor.dims) <= MOST and tensor.data_type != TensorProto.STRING:
            values[tensor.name] = numpy_helper.to_array(tensor)
    for node in skeleton.graph.node:
        _follow(node, skeleton, types, values)
    return {name: shape for name, kind in types.items() if (shape := _complete(kind))}


def _follow(node: NodeProto, model: ModelProto, types: dict[str, TypeProto], values: Values) -> None:
    """Add what can be told of a node's outputs."""
    if node.op_type in SHAPE_ARITHMETIC and node.domain in ("", "ai.onnx"):
        for name, value in _computed(node, model, types, values).items():
            values[name] = value
            types[name] = helper.make_tensor_type_proto(
                helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
    if all(name in types for name in node.output if name):
        return
    present = {name: types.get(name, TypeProto()) for name in node.input if name}
    known = {name: numpy_helper.from_array(values[name], name) for name in present if name in values}
    try:
        schema = onnx.defs.get_schema(node.op_type, _opsets(model).get(node.domain, 1), node.domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, present, known, opset_imports=list(model.opset_import), ir_version=model.ir_version
        )
    except UNKNOWN:
        return
    types |= found


def _computed(node: NodeProto, model: ModelProto, types: dict[str, TypeProto], values: Values) -> Values:
    """The outputs of a node that computes with shapes, where its inputs are known and small."""
    names = [name for name in node.input if name]
    if node.op_type in ("Shape", "Size"):
        whole = _complete(types[names[0]]) if names[0] in types else None
        if whole is None:
            return {}
        if whole.size >= LARGEST:
            return {}
        # Memory that is never written costs nothing: only the shape is read.
        feeds = {names[0]: np.broadcast_to(np.zeros((), np.int8), whole.shape)}
    elif all(name in values for name in names):
        feeds = {name: values[name] for name in names}
    else:
        return {}
    if not _stays_small(node, list(feeds.values())):
        return {}
    try:
        found = ReferenceEvaluator(node, opsets=_opsets(model)).run(None, feeds)
    except UNKNOWN:
        return {}
    pairs = zip(node.output, map(np.asarray, found), strict=False)
    return {name: value for name, value in pairs if name and value.size <= MOST}


def _stays_small(node: NodeProto, feeds: list[np.ndarray]) -> bool:
    """Whether what a node makes of a few numbers are a few numbers: some make any number of them."""
    if node.op_type not in ("ConstantOfShape", "Expand", "Range", "Tile"):
        return True
    numbers = [np.abs(feed.astype(np.float64)).reshape(-1) for feed in feeds if feed.dtype.kind in "iuf"]
    if node.op_type == "Range" and len(numbers) > 2:
        return float((numbers[0].sum() + numbers[1].sum()) / max(float(numbers[2].sum()), 1e-9)) <= MOST
    if not numbers:
        return True
    return max(1, feeds[0].size) * float(np.prod(np.maximum(numbers[-1], 1))) <= MOST * MOST


def _opsets(model: ModelProto) -> dict[str, int]:
    return {entry.domain: entry.version for entry in model.opset_import}


def _fixed(kind: TypeProto, shape: tuple[int, ...] | None) -> TypeProto:
    """A tensor type with this shape; as it is where there is none."""
    return kind if shape is None else helper.make_tensor_type_proto(kind.tensor_type.elem_type, shape)


def _complete(kind: TypeProto) -> TensorShape | None:
    """None where the type is no tensor of numbers whose every dimension is known."""
    tensor = kind.tensor_type
    unknown = tensor.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING)
    if unknown or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorShape(dtype, tuple(dim.dim_value for dim in tensor.shape.dim))
