"""Constants out of nodes: Constant nodes, and what Transpose, Reshape, Cast and others make of a constant."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name, graphs_of, names_in
from comq_onnx.graph.slots import WEIGHT_INPUTS, attribute, is_standard, slots_of
from comq_onnx.graph.tensors import (
    FLOAT_DTYPES,
    Derived,
    SparseStored,
    Tensor,
    array_tensor,
    dtype_of,
    numpy_dtype,
    shape_of,
    values_of,
)

FOLDABLE = ("Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze", "Flatten")


def take_in_constant_nodes(model: Model) -> None:
    """Turn every Constant node into a constant of the graph, whatever its value attribute; strings are left.

    A Constant node that produces a graph output stays, and its readers get a constant of their own.
    """
    taken = names_in(model)
    for graph in graphs_of(model):
        for node in [node for node in graph.nodes if is_standard(node, "Constant")]:
            values = _constant_values(node, model)
            if values is not None:
                _settle(node, graph, values, taken)
        _drop_unconnected(graph)


def fold_constant_chains(model: Model) -> None:
    """Compute `FOLDABLE` operators on constants where that makes a weight, or where it costs no space.

    Where the operand has other readers, it is folded only on the way to a weight: two forms of one tensor
    would otherwise be stored for nothing. Integers of 8 bits or fewer are not cast to floats: that is a
    weight which somebody has quantized already.
    """
    taken = names_in(model)
    for graph in graphs_of(model):
        outputs = {id(tensor) for tensor in graph.outputs}
        for node in list(graph.nodes):
            if not is_standard(node, *FOLDABLE) or not all(isinstance(t, gs.Constant) for t in node.inputs):
                continue
            output = node.outputs[0]
            shared = len(node.inputs[0].outputs) > 1
            if (shared or id(output) in outputs) and not leads_to_weight(output):
                continue
            step = _step(node, model.opset)
            values = None if step is None else _apply(node.inputs[0], *step)
            if values is not None:
                _settle(node, graph, values, taken)
        _drop_unconnected(graph)


def leads_to_weight(tensor: Tensor) -> bool:
    """Whether `tensor` is the weight of an operator, directly or through foldable operators."""
    ahead, seen = [tensor], set()
    while ahead:
        for node, index in slots_of(ahead.pop()):
            if is_standard(node, *WEIGHT_INPUTS) and index in WEIGHT_INPUTS[node.op]:
                return True
            if is_standard(node, *FOLDABLE) and index == 0 and id(node) not in seen:
                seen.add(id(node))
                ahead.append(node.outputs[0])
    return False


def _settle(node: gs.Node, graph: gs.Graph, values: Any, taken: set[str]) -> None:
    """Replace the output of `node` by a constant that holds `values`; the node is left without outputs."""
    output = node.outputs[0]
    if any(tensor is output for tensor in graph.outputs):
        constant = gs.Constant(free_name(f"{output.name}_constant", taken), values)
        for reader, index in list(slots_of(output)):
            reader.inputs[index] = constant
        return
    # The very same object becomes the constant, so that readers in subgraphs need not be looked for.
    node.inputs.clear()
    node.outputs.clear()
    output.to_constant(values)


def _drop_unconnected(graph: gs.Graph) -> None:
    graph.nodes = [node for node in graph.nodes if node.outputs]


def _constant_values(node: gs.Node, model: Model) -> Any:
    """What a constant made of a Constant node holds; None where it has to stay a node."""
    (name, value), *_ = [*node.attrs.items(), ("", None)]
    if name == "value":
        return value._values
    if name == "sparse_value" and isinstance(value, onnx.AttributeProto):
        return SparseStored(value.sparse_tensor, model.path.parent if model.path else None)
    kinds = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    if name in kinds:
        return array_tensor("", np.array(value, dtype=kinds[name]))._values
    return None


@dataclass(frozen=True)
class Steps:
    """What becomes of constant values when one function after the other is applied to them."""

    source: Any
    """An array or lazy values"""
    steps: tuple[Callable[[np.ndarray], np.ndarray], ...]

    def __call__(self) -> np.ndarray:
        values = self.source if isinstance(self.source, np.ndarray) else self.source.load()
        for step in self.steps:
            values = step(values)
        return values


Step = tuple[Callable[[np.ndarray], np.ndarray], np.dtype]


def _step(node: gs.Node, opset: int) -> Step | None:
    """What `node` does to its constant, and the element type of the result; None where it is left alone."""
    source = dtype_of(node.inputs[0])
    if node.op == "Transpose":
        perm = attribute(node, "perm")
        return (lambda array: array.transpose(perm)), source
    if node.op == "Identity":
        return (lambda array: array), source
    if node.op == "Flatten":
        axis = attribute(node, "axis", 1)
        return (lambda array: array.reshape(int(np.prod(array.shape[:axis])), -1)), source
    if node.op == "Reshape":
        made = _reshape(node)
        return made and (made, source)
    if node.op == "Cast":
        return _cast(node, source)
    axes = attribute(node, "axes") if opset < 13 else (node.inputs[1] if len(node.inputs) > 1 else None)
    if isinstance(axes, gs.Constant):
        axes = values_of(axes).reshape(-1).tolist()
    if node.op == "Squeeze":
        return (lambda array: array.squeeze(None if axes is None else tuple(axes))), source
    return (lambda array: np.expand_dims(array, tuple(axes or ()))), source


def _reshape(node: gs.Node) -> Callable[[np.ndarray], np.ndarray] | None:
    if len(node.inputs) < 2 or dtype_of(node.inputs[1]) != np.int64:
        return None  # no runtime would run it
    wanted = values_of(node.inputs[1]).reshape(-1).tolist()
    copy_zero = not attribute(node, "allowzero", 0)
    before = shape_of(node.inputs[0])
    if any(size == 0 and copy_zero and i >= len(before) for i, size in enumerate(wanted)):
        return None
    shape = [before[i] if size == 0 and copy_zero else size for i, size in enumerate(wanted)]
    return lambda array: array.reshape(shape)


def _cast(node: gs.Node, source: np.dtype) -> Step | None:
    target = numpy_dtype(attribute(node, "to"), node.name)
    floats = source.name in FLOAT_DTYPES and target.name in FLOAT_DTYPES
    wide = source.name in ("int32", "int64") and target.name in ("int32", "int64")
    if not floats and not wide:
        return None

    def cast(array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", under="ignore"):  # out of range becomes Inf, as ONNX has it
            return array.astype(target)

    return cast, target


def _apply(
    constant: gs.Constant, function: Callable[[np.ndarray], np.ndarray], dtype: np.dtype
) -> Derived | None:
    """The constant's values behind `function`, computed when read; None where the shapes do not fit."""
    held, shape = constant._values, shape_of(constant)
    if dtype == dtype_of(constant):
        try:
            # Memory that is never written costs nothing, so the function itself may say what shape it makes.
            shape = function(np.empty(shape, dtype)).shape
        except ValueError:
            return None
    # One record for a whole chain: functions that call each other would reach Python's depth.
    before = held.compute if isinstance(held, Derived) else None
    source, steps = (before.source, before.steps) if isinstance(before, Steps) else (held, ())
    return Derived(shape, dtype, Steps(source, (*steps, function)))
