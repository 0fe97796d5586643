"""QuantizeLinear and DequantizeLinear as rules look at them."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from comq_onnx.graph.scopes import Scope, integer_attribute
from comq_onnx.targets.view import DEFAULT_DOMAINS, MOVING, View, named

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that have kernels on codes."""


@dataclass(frozen=True)
class Linear:
    """A QuantizeLinear or a DequantizeLinear of the default domain."""

    node: onnx.NodeProto
    scope: Scope
    type: int
    """`TensorProto` element type of its codes; 0 where the file does not say it"""
    is_weight: bool
    """What it scales is computed from constants alone"""
    source: "Linear | None"
    """The QuantizeLinear whose codes this DequantizeLinear reads"""

    @property
    def name(self) -> str:
        return named(self.node)

    @property
    def quantizes(self) -> bool:
        return self.node.op_type == "QuantizeLinear"

    @property
    def scale(self) -> str:
        """Name of its scale."""
        return self.node.input[1] if len(self.node.input) > 1 else ""

    @property
    def zero_point(self) -> str:
        """Name of its zero point; empty where it has none."""
        return self.node.input[2] if len(self.node.input) > 2 else ""

    @property
    def block(self) -> int:
        """Its block size; 0 where it has no blocks."""
        return integer_attribute(self.node, "block_size", 0)

    @property
    def repeats(self) -> bool:
        """Whether what is true of its scale and zero point is also true of its `source`."""
        return self.source is not None and list(self.source.node.input[1:]) == list(self.node.input[1:])

    def axis(self, rank: int) -> int:
        """Its axis, counted from the front of `rank` axes."""
        axis = integer_attribute(self.node, "axis", 1)
        return axis + rank if axis < 0 else axis


def linears(view: View) -> Iterator[Linear]:
    """All of them, in the order of the file. Those that lack their inputs are not ONNX, and left out."""
    for node, scope in view.nodes("QuantizeLinear", "DequantizeLinear"):
        if _is_whole(node):
            yield linear_of(node, scope, view)


def linear_of(node: onnx.NodeProto, scope: Scope, view: View) -> Linear:
    """`node`, which is one of the two operators."""
    is_weight = view.is_constant(node.input[0], scope)
    if node.op_type == "QuantizeLinear":
        return Linear(node, scope, _quantized_type(node, scope, view), is_weight, None)
    maker = scope.producer(node.input[0])
    if maker and maker.op_type == "QuantizeLinear" and maker.domain in DEFAULT_DOMAINS and _is_whole(maker):
        source = linear_of(maker, scope, view)
        return Linear(node, scope, source.type, is_weight, source)
    kind = view.element_type(node.input[0], scope)
    if not kind and len(node.input) > 2:
        kind = view.element_type(node.input[2], scope)
    return Linear(node, scope, kind, is_weight, None)


def _is_whole(node: onnx.NodeProto) -> bool:
    return len(node.input) > 1 and len(node.output) > 0


def _quantized_type(node: onnx.NodeProto, scope: Scope, view: View) -> int:
    if len(node.input) > 2 and node.input[2]:
        return view.element_type(node.input[2], scope)
    return integer_attribute(node, "output_dtype", 0)


@dataclass(frozen=True)
class Use:
    """An operator that a tensor reaches through operators that only move it."""

    node: onnx.NodeProto
    position: int
    """Which of its inputs"""
    path: tuple[onnx.NodeProto, ...]
    """What lies between, from the tensor on"""


def uses(name: str, scope: Scope, view: View) -> Iterator[Use]:
    """Where the tensor `name` of `scope` ends up."""
    pending: list[tuple[str, Scope, tuple[onnx.NodeProto, ...]]] = [(name, scope, ())]
    seen = {name}
    while pending:
        name, scope, path = pending.pop()
        for node, inner in view.readers(name, scope):
            if node.op_type in MOVING and node.domain in DEFAULT_DOMAINS and node.input[0] == name:
                if node.output and node.output[0] not in seen:
                    seen.add(node.output[0])
                    pending.append((node.output[0], inner, (*path, node)))
            else:
                yield from (Use(node, i, path) for i, read in enumerate(node.input) if read == name)


def is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in PRODUCTS and node.domain in DEFAULT_DOMAINS


def type_name(kind: int) -> str:
    """Name of an element type, as ONNX writes it."""
    return TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else f"type {kind}"
