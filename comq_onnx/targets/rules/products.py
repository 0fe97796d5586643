"""Products with a quantized weight as they lie in a file: what the rules of all runtimes look at.

A weight is *weight-only* where the activation it meets is a float, and *8-bit* where that comes from a
DequantizeLinear: runtimes treat the two as different things.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto

from comq_onnx.graph.scopes import Scope, integer_attribute
from comq_onnx.targets.view import DEFAULT_DOMAINS, View

BITS: dict[int, int] = {
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}
SIDES = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,), "Gather": (0,)}
"""Which inputs may hold a weight."""
WEIGHT_PATH = ("Transpose", "Reshape", "Cast", "Identity")
MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "MaxPool")
"""Operators that onnxruntime moves a QuantizeLinear or DequantizeLinear across."""


@dataclass(frozen=True)
class Linear:
    """A DequantizeLinear and the constants it reads."""

    node: NodeProto
    codes: TensorProto | None
    """Behind a Cast, too; None where the codes are computed"""
    code_type: int
    """Element type that the node reads; 0 where it is not known"""
    scale: TensorProto | None
    zero_point: TensorProto | None
    dynamic: bool
    """Whether the codes come from a DynamicQuantizeLinear"""

    @property
    def axis(self) -> int:
        """The axis of the scales, counted from the front where the rank is known."""
        axis = integer_attribute(self.node, "axis", 1)
        return axis + len(self.codes.dims) if axis < 0 and self.codes is not None else axis

    @property
    def block(self) -> int:
        return integer_attribute(self.node, "block_size", 0)

    @property
    def bits(self) -> int:
        return BITS.get(self.code_type, 0)

    @property
    def per_tensor(self) -> bool:
        return self.scale is not None and len(self.scale.dims) < 2 and list(self.scale.dims) in ([], [1])


@dataclass(frozen=True)
class Product:
    """A node with a weight that a DequantizeLinear makes of constant codes."""

    node: NodeProto
    scope: Scope
    weight: Linear
    codes: TensorProto
    side: int
    """Input of the node that the weight is"""
    path: tuple[str, ...]
    """Operators between the DequantizeLinear and the node, from the node on"""
    activation: Linear | None
    """What makes the other operand; None where that is a float"""

    @property
    def reduced(self) -> int | None:
        """The axis of the codes that a MatMul or Gemm sums over; None where it cannot be told."""
        if len(self.codes.dims) != 2 or "Reshape" in self.path or self.node.op_type not in ("MatMul", "Gemm"):
            return None
        name = "transA" if self.side == 0 else "transB"
        turns = self.path.count("Transpose") + integer_attribute(self.node, name, 0)
        return (1 - self.side + turns) % 2

    @property
    def depthwise(self) -> bool:
        """Whether it is a Conv with one input channel for each group."""
        groups = integer_attribute(self.node, "group", 1)
        return self.node.op_type == "Conv" and groups > 1 and list(self.codes.dims[1:2]) == [1]


def linear(node: NodeProto, view: View, scope: Scope) -> Linear:
    """What there is to know of a DequantizeLinear."""
    maker = scope.producer(node.input[0])
    source = node.input[0]
    if maker is not None and maker.op_type == "Cast" and maker.domain in DEFAULT_DOMAINS:
        source = maker.input[0]
        code_type = integer_attribute(maker, "to", 0)
    else:
        code_type = view.element_type(source, scope)
    zero_point = view.constant(node.input[2], scope) if len(node.input) > 2 and node.input[2] else None
    return Linear(
        node,
        view.constant(source, scope),
        code_type or (zero_point.data_type if zero_point is not None else 0),
        view.constant(node.input[1], scope),
        zero_point,
        maker is not None and maker.op_type == "DynamicQuantizeLinear",
    )


def products(view: View) -> Iterator[Product]:
    """Every product of the file that has a quantized weight."""
    for node, scope in view.nodes(*SIDES):
        for side in SIDES[node.op_type]:
            path, maker = behind(node.input[side], WEIGHT_PATH, scope)
            if maker is None or maker.op_type != "DequantizeLinear":
                continue
            weight = linear(maker, view, scope)
            if weight.codes is None or weight.code_type not in BITS:
                continue
            activation = activation_of(node, 1 - side, view, scope)
            yield Product(node, scope, weight, weight.codes, side, path, activation)


def activation_of(node: NodeProto, side: int, view: View, scope: Scope) -> Linear | None:
    """The DequantizeLinear of computed codes behind an input of a node, if there is one."""
    _, maker = behind(node.input[side], MOVES, scope)
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    found = linear(maker, view, scope)
    return found if found.codes is None and found.code_type in BITS else None


def behind(name: str, ops: Sequence[str], scope: Scope) -> tuple[tuple[str, ...], NodeProto | None]:
    """The operators among `ops` that a tensor comes through, last one first, and the node before them."""
    path: list[str] = []
    seen: set[str] = set()
    maker = scope.producer(name)
    while maker is not None and maker.op_type in ops and name not in seen:
        seen.add(name)
        path.append(maker.op_type)
        name = maker.input[0]
        maker = scope.producer(name)
    return tuple(path), maker


def weight_only(view: View, *ops: str) -> Iterator[Product]:
    """Products of these operators whose activation is a float."""
    return (p for p in products(view) if p.activation is None and p.node.op_type in ops)


def eight_bit(view: View, *ops: str) -> Iterator[tuple[Product, Linear]]:
    """Products of these operators with 8-bit codes on both sides, and their activation."""
    for product in products(view):
        if product.activation is not None and product.weight.bits == 8 and product.node.op_type in ops:
            yield product, product.activation


def right_sides(view: View) -> Iterator[Product]:
    """Weight-only right operands of a MatMul or Gemm: what onnxruntime can fuse."""
    return (p for p in weight_only(view, "MatMul", "Gemm") if p.side == 1)


def sole_reader(name: str, scope: Scope) -> NodeProto | None:
    """The one node that reads a tensor; None where there are others or it is an output."""
    readers = scope.readers.get(name, [])
    is_output = any(name == output.name for output in scope.graph.output)
    return readers[0] if len(readers) == 1 and not is_output else None


def addend(node: NodeProto, scope: Scope) -> tuple[str, NodeProto]:
    """What is added to a product, and the node whose output the sum is; no name where nothing is."""
    if node.op_type != "MatMul":
        return (node.input[2] if len(node.input) > 2 else ""), node
    add = sole_reader(node.output[0], scope)
    if add is None or add.op_type != "Add":
        return "", node
    return next((i for i in add.input if i != node.output[0]), ""), add


def summed(node: NodeProto, view: View, scope: Scope) -> tuple[str, NodeProto]:
    """`addend` of what is a Gemm once onnxruntime has turned MatMul + Add into one; no name where it is none.

    It does so for a ``[K, N]`` weight: on matrices with a vector of N and with a matrix of one or as many
    rows; on inputs of more axes, all of known size, with a vector of N.
    """
    name, last = addend(node, scope)
    if node.op_type == "Gemm" or not name:
        return name, last
    rows, weight, added = (view.shape(n, scope) for n in (node.input[0], node.input[1], name))
    if rows is None or weight is None or added is None or len(weight) != 2:
        return "", node
    if len(rows) == 2:
        matrix = len(added) == 2 and added[0] in (1, rows[0])
        return (name, last) if matrix or added == weight[1:] else ("", node)
    return (name, last) if added == weight[1:] and None not in rows and len(rows) > 2 else ("", node)


def contributed(view: View, op: str) -> Iterator[tuple[NodeProto, Scope]]:
    """Nodes of onnxruntime's own operator `op`."""
    return ((n, s) for n, s in view.nodes() if n.op_type == op and n.domain == "com.microsoft")


def float_attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """A float attribute of a node, or `default` where it has none."""
    return next((a.f for a in node.attribute if a.name == name), default)
