"""Read quantized weights back from a written file, knowing nothing of how they were written.

The chain of nodes that feeds a layer's weight input is followed to its initializers and computed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.readback_forms import DOMAIN, WEIGHT_ZERO, lookup_shape, nbits_weight, scale_behind
from comq_onnx.graph.scopes import Scope, integer_attribute, scopes
from comq_onnx.graph.tensors import Stored
from comq_onnx.records import Layer

STEPS = (
    "BitwiseAnd",
    "Cast",
    "Gather",
    "Identity",
    "Mul",
    "ReduceSum",
    "Reshape",
    "Sub",
    "Transpose",
)
"""What makes a weight of constants, besides DequantizeLinear"""
ROW_STEPS = ("BitwiseAnd", "Cast", "Mul", "Reshape", "Sub")
"""What rows of codes go through behind the Gather that looks them up"""


@dataclass(frozen=True)
class ReadWeight:
    """What a file holds for one weight, both in the shape of the weight tensor."""

    codes: np.ndarray | None
    """int16; None where a float weight is stored"""
    values: np.ndarray
    """float64; whole numbers may be integers"""
    initializer: str
    """Name of the codes in the file"""


class WrittenFile:
    """The layers of a written model, by node name."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.scopes = tuple(scopes(proto.graph))
        self._nodes = {node.name: (node, scope) for scope in self.scopes for node in scope.graph.node}

    def weight(self, layer: Layer) -> ReadWeight:
        """Codes and values of the weight that `layer`'s node reads. ComqError if they cannot be traced."""
        if layer.name not in self._nodes:
            raise ComqError("the node is not in the written file", where=layer.name)
        node, scope = self._nodes[layer.name]
        if node.op_type == "MatMulNBits" and node.domain == DOMAIN:
            return of_nbits(node, scope)
        if node.op_type == "MatMulInteger":
            return of_integers(node, scope)
        index = 0 if layer.layout.kind in ("matmul_left", "gather") else 1
        read = trace(node.input[index], scope)
        return follow_lookup(node, read, scope) if layer.op == "Gather" else read


def trace(name: str, scope: Scope) -> ReadWeight:
    """The tensor `name` as computed from initializers, and the integer codes it is made of."""
    tensor = scope.tensor(name)
    if tensor is not None:
        array = Stored(tensor).load()
        is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        return ReadWeight(None if is_float else array.astype(np.int16), array.astype(np.float64), name)
    node = scope.producer(name)
    if node is None:
        raise ComqError("it is not computed from initializers", where=name)
    if node.op_type == "DequantizeLinear":
        return _dequantized(node, scope)
    if node.op_type not in STEPS or (node.op_type == "ReduceSum" and len(node.input) < 2):
        raise ComqError(f"it is computed by a {node.op_type}", where=name)
    first = trace(node.input[0], scope)
    if node.op_type == "BitwiseAnd":
        return _masked(first, trace(node.input[1], scope))
    if node.op_type == "ReduceSum":
        return _summed(first, node, scope)
    if node.op_type in ("Cast", "Identity", "Gather"):
        return first
    if node.op_type in ("Sub", "Mul"):
        second = trace(node.input[1], scope).values
        values = first.values - second if node.op_type == "Sub" else first.values * second
        return replace(first, values=values)
    if node.op_type == "Reshape":
        shape = trace(node.input[1], scope).values.astype(np.int64)
        return _each(first, lambda array: array.reshape(shape))
    perm = next(a.ints for a in node.attribute if a.name == "perm")
    return _each(first, lambda array: array.transpose(perm))


def of_nbits(node: onnx.NodeProto, scope: Scope) -> ReadWeight:
    """The weight of a MatMulNBits. Codes without zero points are read as signed, around 0."""
    names = {place: name for place, name in enumerate(node.input) if 0 < place <= WEIGHT_ZERO and name}
    parts = {place: trace(name, scope).values for place, name in names.items()}
    codes, values = nbits_weight(node, parts)
    if WEIGHT_ZERO not in names:
        codes = codes - (1 << (integer_attribute(node, "bits", 4) - 1))
    return ReadWeight(codes.astype(np.int16), values, names[1])


def of_integers(node: onnx.NodeProto, scope: Scope) -> ReadWeight:
    """The weight of a MatMulInteger, scaled by that factor of its sums which is a constant."""
    read = trace(node.input[1], scope)
    zero = trace(node.input[WEIGHT_ZERO], scope).values if len(node.input) > WEIGHT_ZERO else 0.0
    values = read.values - zero
    for name in scale_behind(node, scope):
        if scope.tensor(name) is not None:
            values = values * trace(name, scope).values
    return replace(read, values=values)


def follow_lookup(node: onnx.NodeProto, table: ReadWeight, scope: Scope) -> ReadWeight:
    """What the rows of an integer `table` become behind the Gather `node`, each of them looked up once.

    A table of more than two axes holds several codes in a byte: it is followed to the Reshape that makes
    rows of them.
    """
    read, name = table, node.output[0]
    if table.codes is None or scope.producer(node.input[0]) is not None:
        return table
    while len(scope.readers.get(name, ())) == 1 and scope.readers[name][0].op_type in ROW_STEPS:
        reader = scope.readers[name][0]
        if reader.op_type == "Reshape":
            shape = lookup_shape(reader.input[1], (node.input[1], len(table.values)), scope)
            return _each(read, lambda array, shape=shape: array.reshape(shape))
        read, name = _row_step(read, reader, scope), reader.output[0]
        if reader.op_type == "Mul" and read.values.ndim == 2:
            break
    return read


def _row_step(read: ReadWeight, node: onnx.NodeProto, scope: Scope) -> ReadWeight:
    """One operator on rows looked up.

    Of packed rows, what is masked are codes, and what one constant makes of all of them alike still is: it
    moves them to the lowest bits, or makes them signed.
    """
    if node.op_type == "Cast":
        return read
    second, constant = trace(node.input[1], scope).values, scope.tensor(node.input[1]) is not None
    if node.op_type == "BitwiseAnd":
        values = _and(read.values, second)
    else:
        values = read.values - second if node.op_type == "Sub" else read.values * second
    codes = values.astype(np.int16) if constant and values.ndim > 2 else read.codes
    return replace(read, codes=codes, values=values)


def _masked(read: ReadWeight, mask: ReadWeight) -> ReadWeight:
    """Bits of several codes at once: no codes before they are summed."""
    return replace(read, codes=None, values=_and(read.values, mask.values))


def _and(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of whole numbers in float64, bit by bit; bytes stay bytes, since a plane of a large weight is large."""
    small = (
        max(one.max(initial=0), other.max(initial=0)) < 256
        and min(one.min(initial=0), other.min(initial=0)) >= 0
    )
    kind = np.uint8 if small else np.int64
    return one.astype(kind) & other.astype(kind)


def _summed(read: ReadWeight, node: onnx.NodeProto, scope: Scope) -> ReadWeight:
    """Codes, of what each of their bits is worth."""
    axes = tuple(trace(node.input[1], scope).values.astype(int))
    values = read.values.sum(axis=axes, keepdims=bool(integer_attribute(node, "keepdims", 1)))
    return replace(read, codes=values.astype(np.int16), values=values)


def _dequantized(node: onnx.NodeProto, scope: Scope) -> ReadWeight:
    """DequantizeLinear by its definition: ``(codes - zero_point) * scale`` along an axis, maybe in blocks."""
    parts = [trace(name, scope) for name in node.input]
    attributes = {a.name: a.i for a in node.attribute}
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    shape = parts[0].values.shape

    def spread(values: np.ndarray) -> np.ndarray:
        if block:
            index = [slice(None)] * len(shape)
            index[axis] = slice(shape[axis])
            return np.repeat(values, block, axis)[tuple(index)]
        return values.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])

    zero = spread(parts[2].values) if len(parts) > 2 else 0.0
    return replace(parts[0], values=(parts[0].values - zero) * spread(parts[1].values))


def _each(read: ReadWeight, change: Callable[[np.ndarray], np.ndarray]) -> ReadWeight:
    return replace(read, codes=None if read.codes is None else change(read.codes), values=change(read.values))
