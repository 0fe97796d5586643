"""Products of values that have two ranges: where they are, and the two products that take their place.

``MatMul(x, W)`` becomes ``MatMul(DQ(Q(x)), W) + MatMul(DQ(Q(x - T)), W)``: the first QuantizeLinear clips x
at the threshold T, the second at 0 what does not reach it. Both products are computed in 8 bits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from comq_onnx.graph.edit import insert_after, insert_before
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name
from comq_onnx.graph.slots import is_standard, slots_of
from comq_onnx.graph.tensors import Tensor, float_tensor, quantized_tensor, values_of
from comq_onnx.records import TwinGrid, ValueGrid
from comq_onnx.targets.barrier import MATRIX, insert_reshape
from comq_onnx.targets.patterns import MOVERS
from comq_onnx.targets.placement import Placement, Stored

CLOSE = 1e-3
"""Relative difference of constants that were rounded on their way into a file"""


def twin_readers(model: Model, placement: Placement) -> dict[str, str]:
    """Tensors behind a Softmax or GELU that are stored for one MatMul, its left operand; and its name."""
    tensors = {tensor.name: tensor for node in model.graph.nodes for tensor in node.outputs}
    found = {}
    for value in placement.values:
        if value.readers is None or len(value.readers) != 1 or value.tensor not in tensors:
            continue
        tensor = tensors[value.tensor]
        slots = [(n, i) for n, i in slots_of(tensor) if n.name == value.readers[0]]
        plain = len(slots) == 1 and slots[0][1] == 0 and is_standard(slots[0][0], "MatMul")
        if plain and _is_single(tensor) and is_skewed(tensor):
            found[value.tensor] = slots[0][0].name
    return found


def is_skewed(tensor: Tensor) -> bool:
    """Whether a Softmax or GELU makes the values of a tensor, seen through operators that move them."""
    while tensor.inputs:
        node = tensor.inputs[0]
        if is_standard(node, "Softmax", "Gelu") or _is_contrib_gelu(node) or is_erf_gelu(node):
            return True
        if node.domain or node.op not in MOVERS or node.op in ("Concat", "Pad"):
            return False
        tensor = node.inputs[0]
    return False


def is_erf_gelu(node: gs.Node) -> bool:
    """Whether a Mul makes ``x * 0.5 * (1 + erf(x / sqrt(2)))``, its factors multiplied in any order."""
    if not is_standard(node, "Mul"):
        return False
    for first, second in (node.inputs, reversed(node.inputs)):
        inner = first.inputs[0] if first.inputs else None
        if inner is None or not is_standard(inner, "Mul"):
            continue
        factors = [*inner.inputs, second]
        halves = [t for t in factors if _is_number(t, 0.5)]
        others = [t for t in factors if not isinstance(t, gs.Constant)]
        if len(halves) == 1 and len(others) == 2:
            return _is_weight_of(*others) or _is_weight_of(*reversed(others))
    return False


def part_products(model: Model, stored: Stored, ranks: Mapping[str, int], taken: set[str]) -> None:
    """Split each product whose left operand has two ranges; all else must be in place.

    `ranks` are the number of axes of tensors, where known. The right operand is restored from the same codes
    by a DequantizeLinear for each product, so that a runtime can fuse both.
    """
    graph = model.graph
    nodes = {node.name: node for node in graph.nodes}
    for value in stored.placement.values:
        if value.tensor in stored.twins and value.readers:
            node = nodes[value.readers[0]]
            matrix = ranks.get(value.tensor, 0) == MATRIX
            _Parts(graph, node, stored.twins[value.tensor], taken).write(matrix)


@dataclass
class _Parts:
    """The nodes that take the place of one product, as they are made."""

    graph: gs.Graph
    node: gs.Node
    twin: TwinGrid
    taken: set[str]
    nodes: list[gs.Node] = field(default_factory=list)

    def write(self, matrix: bool) -> None:
        node, output, source = self.node, self.node.outputs[0], self.node.inputs[0]
        node.inputs[0] = self._restored(source, self.twin.small, f"{source.name}_small")
        large = self._restored(self._beyond(source), self.twin.large, f"{source.name}_large")
        right = self._again(node.inputs[1])
        insert_before(self.graph, node, self.nodes)
        products: list[Tensor] = [self._variable(f"{output.name}_{size}") for size in ("small", "large")]
        node.outputs[0] = products[0]
        name = free_name(f"{node.name}_large", self.taken)
        second = gs.Node("MatMul", name, inputs=[large, right], outputs=[products[1]])
        both = gs.Node("Add", free_name(f"{node.name}_sum", self.taken), inputs=products, outputs=[output])
        insert_after(self.graph, node, [second, both])
        for product in (node, second) if matrix else ():
            # As `part_from_bias`: of a matrix product and an Add, onnxruntime makes a Gemm.
            insert_reshape(self.graph, product, MATRIX, self.taken)

    def _beyond(self, source: Tensor) -> gs.Variable:
        """``x - T``; negative values are cut by the code of zero where it is the lowest, or by a Relu."""
        threshold = float_tensor(
            free_name(f"{source.name}_threshold", self.taken), np.asarray(self.twin.threshold), "float32"
        )
        beyond = self._node("Sub", [source, threshold], f"{source.name}_beyond")
        lowest = -128 if self.twin.large.kind.signed else 0
        if self.twin.large.zero_point == lowest:
            return beyond
        return self._node("Relu", [beyond], f"{source.name}_beyond_positive")

    def _restored(self, source: Tensor, grid: ValueGrid, name: str) -> gs.Variable:
        signed = grid.kind.signed
        code = np.asarray(grid.zero_point, np.int8 if signed else np.uint8)
        element = TensorProto.INT8 if signed else TensorProto.UINT8
        scale = float_tensor(free_name(f"{name}_scale", self.taken), np.asarray(grid.scale), "float32")
        zero = quantized_tensor(free_name(f"{name}_zero_point", self.taken), code, element)
        codes = self._node("QuantizeLinear", [source, scale, zero], f"{name}_quantized")
        return self._node("DequantizeLinear", [codes, scale, zero], f"{name}_dequantized")

    def _again(self, tensor: Tensor) -> Tensor:
        """The right operand once more, for the second product."""
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is None or not is_standard(maker, "DequantizeLinear"):
            return tensor
        return self._node("DequantizeLinear", list(maker.inputs), f"{tensor.name}_again", **maker.attrs)

    def _node(self, op: str, inputs: list[Tensor], output: str, **attrs: object) -> gs.Variable:
        made = self._variable(output)
        name = free_name(f"{made.name}_{op}", self.taken)
        self.nodes.append(gs.Node(op, name, attrs=attrs, inputs=inputs, outputs=[made]))
        return made

    def _variable(self, name: str) -> gs.Variable:
        return gs.Variable(free_name(name, self.taken))


def _is_single(tensor: Tensor) -> bool:
    """Whether values are float32, or nothing is known: the threshold is exact in that type alone."""
    return tensor.dtype is None or np.dtype(tensor.dtype) == np.float32


def _is_contrib_gelu(node: gs.Node) -> bool:
    return node.domain == "com.microsoft" and node.op in ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")


def _is_weight_of(x: Tensor, weight: Tensor) -> bool:
    """Whether `weight` is ``1 + erf(x / sqrt(2))``."""
    for erf in _beside(weight, "Add", 1.0):
        if erf.inputs and is_standard(erf.inputs[0], "Erf"):
            inner = erf.inputs[0].inputs[0]
            over = [*_beside(inner, "Div", np.sqrt(2.0)), *_beside(inner, "Mul", np.sqrt(0.5))]
            return any(tensor is x for tensor in over)
    return False


def _beside(tensor: Tensor, op: str, number: float) -> Iterator[Tensor]:
    """The other operand of the operator that makes `tensor` out of it and a number."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or not is_standard(node, op):
        return
    first, second = node.inputs
    if _is_number(second, number):
        yield first
    if op != "Div" and _is_number(first, number):
        yield second


def _is_number(tensor: Tensor, number: float) -> bool:
    if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape, dtype=int)) != 1:
        return False
    return bool(np.isclose(float(values_of(tensor).reshape(())), number, rtol=CLOSE))
