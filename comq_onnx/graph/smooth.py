"""Channel scales moved out of an activation into the weights that read it: ``x W = (x / s) (s W)``.

The division goes into what makes the activation where that is a map with a number for each channel which
nothing else sees (a LayerNorm's gamma and beta, a Mul by a vector, another product's columns and bias), and
is a Mul of its own otherwise. Either way the model computes what it did, but for rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.edit import insert_after
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name, names_in, node_of
from comq_onnx.graph.slots import attribute, is_standard, slots_of
from comq_onnx.graph.tensors import FLOAT_DTYPES, Derived, Tensor, dtype_of, float_tensor, shape_of
from comq_onnx.records import Layer

HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity")
"""``f(x / s) = f(x) / s`` for positive s"""
NORMS = ("LayerNormalization", "RMSNormalization")
MATRIX = 2
Spot = tuple[gs.Node, int]
"""An input of a node: a constant with a number, or a column, for each channel on its last axis"""


@dataclass(frozen=True)
class Divided:
    """Where the division by channel scales went."""

    tensor: str
    """What the layers read now"""
    into: str
    """Names of the nodes whose constants were divided; empty where the division is a Mul of its own"""


def smooth(
    model: Model, layers: Sequence[Layer], scale: np.ndarray, taken: set[str] | None = None
) -> Divided:
    """Divide by `scale` what `layers` read, and multiply the rows of their weights by it, in place.

    Parameters
    ----------
    model
        Prepared.
    layers
        MatMul or Gemm of the main graph, with a weight ``[K, N]`` on the right, that read one tensor. Others
        may read it too: these go on to see it as it was.
    scale
        ``[K]``, positive and finite.
    taken
        Names that are not free, where that is known.
    """
    taken = names_in(model) if taken is None else taken
    nodes = [node_of(model, layer)[0] for layer in layers]
    source, scale = nodes[0].inputs[0], np.asarray(scale, np.float64)
    spots = _absorbing(model.graph, source, nodes, len(scale))
    if spots is None:
        read = _divided(model.graph, source, (scale, layers[0].dtype), taken)
        for node in nodes:
            node.inputs[0] = read
    for node, index in spots or ():
        _multiply(node, index, 1.0 / scale, taken)
    for node in nodes:
        _multiply(node, 1, scale[:, None], taken)
    where = dict.fromkeys(node.name for node, _ in spots or ())
    return Divided(nodes[0].inputs[0].name, ", ".join(where))


def absorbs(model: Model, layers: Sequence[Layer]) -> bool:
    """Whether `smooth` needs no Mul of its own for these layers."""
    nodes = [node_of(model, layer)[0] for layer in layers]
    return _absorbing(model.graph, nodes[0].inputs[0], nodes, layers[0].layout.rows) is not None


def _absorbing(graph: gs.Graph, source: Tensor, nodes: Sequence[gs.Node], size: int) -> list[Spot] | None:
    """Constants to divide so that `source` is divided and nothing else changes; None where there are none."""
    readers = {id(node) for node in nodes}
    if any(id(node) not in readers or index for node, index in slots_of(source)):
        return None
    walk = _Walk(graph, size)
    return walk.spots(source)


class _Walk:
    """Back from a tensor to the constants that give each of its channels a factor."""

    def __init__(self, graph: gs.Graph, size: int) -> None:
        self._size = size
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._inside = {id(node) for node in graph.nodes}

    def spots(self, tensor: Tensor) -> list[Spot] | None:
        """Of a tensor that is read by what divides it alone."""
        if id(tensor) in self._outputs or len(tensor.inputs) != 1 or id(tensor.inputs[0]) not in self._inside:
            return None
        node = tensor.inputs[0]
        if node.outputs[0] is not tensor:
            return None
        if is_standard(node, *NORMS):
            return self._of_norm(node)
        if is_standard(node, "MatMul", "Gemm"):
            return self._of_product(node)
        if is_standard(node, *HOMOGENEOUS):
            return self._behind(node.inputs[0])
        if is_standard(node, "Add") and len(node.inputs) == 2:
            return self._of_sum(node)
        return self._of_mul(node) if is_standard(node, "Mul") else None

    def _behind(self, tensor: Tensor) -> list[Spot] | None:
        """Of a tensor that must have one reader."""
        alone = isinstance(tensor, gs.Variable) and len(list(slots_of(tensor))) == 1
        return self.spots(tensor) if alone else None

    def _of_norm(self, node: gs.Node) -> list[Spot] | None:
        found = [(node, index) for index in range(1, len(node.inputs)) if not node.inputs[index].is_empty()]
        last = attribute(node, "axis", -1) == -1  # gamma has the size of all axes that are normalised over
        return found if last and found and all(self._vector(n.inputs[i]) for n, i in found) else None

    def _of_product(self, node: gs.Node) -> list[Spot] | None:
        weight = node.inputs[1]
        if not isinstance(weight, gs.Constant) or len(shape_of(weight)) != MATRIX or not self._last(weight):
            return None
        if node.op == "Gemm" and any(attribute(node, name, 0) for name in ("transA", "transB")):
            return None
        if len(node.inputs) <= MATRIX or node.inputs[2].is_empty():
            return [(node, 1)]
        return [(node, 1), (node, 2)] if self._vector(node.inputs[2]) else None

    def _of_sum(self, node: gs.Node) -> list[Spot] | None:
        for index, tensor in enumerate(node.inputs):
            if self._vector(tensor):
                found = self._behind(node.inputs[1 - index])
                return None if found is None else [*found, (node, index)]
        return None

    def _of_mul(self, node: gs.Node) -> list[Spot] | None:
        """A vector that it multiplies by, or what makes one of its operands: both have all channels."""
        for index, tensor in enumerate(node.inputs):
            if self._vector(tensor):
                return [(node, index)]
        for tensor in node.inputs:
            if (found := self._behind(tensor)) is not None:
                return found
        return None

    def _vector(self, tensor: Tensor) -> bool:
        """Whether it is a constant with one number for each channel."""
        return self._last(tensor) and int(np.prod(shape_of(tensor))) == self._size

    def _last(self, tensor: Tensor) -> bool:
        """Whether it is a floating constant with all channels on its last axis."""
        held = isinstance(tensor, gs.Constant) and dtype_of(tensor).name in FLOAT_DTYPES
        return held and shape_of(tensor)[-1:] == (self._size,)


def _divided(graph: gs.Graph, source: Tensor, by: tuple[np.ndarray, str], taken: set[str]) -> gs.Variable:
    """`source` times the reciprocals, from a new Mul."""
    scale, dtype = by
    name = free_name(f"{source.name}_smooth", taken)
    factor = float_tensor(free_name(f"{name}_factor", taken), 1.0 / scale, dtype)
    made = gs.Variable(free_name(f"{source.name}_smoothed", taken), source.dtype, source.shape)
    node = gs.Node("Mul", name, inputs=[source, factor], outputs=[made])
    if source.inputs:
        insert_after(graph, source.inputs[0], [node])
    else:
        graph.nodes = [node, *graph.nodes]
    return made


def _multiply(node: gs.Node, index: int, by: np.ndarray, taken: set[str]) -> None:
    """Multiply a constant of one node, whatever else reads it, when its values are asked for."""
    old = node.inputs[index]
    held, dtype, shape = old._values, dtype_of(old), shape_of(old)

    def compute() -> np.ndarray:
        values = held if isinstance(held, np.ndarray) else held.load()
        return (values.astype(np.float64) * by).astype(dtype)

    name = old.name if len(list(slots_of(old))) == 1 else free_name(old.name, taken)
    node.inputs[index] = gs.Constant(name, Derived(shape, dtype, compute))
