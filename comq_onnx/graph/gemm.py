"""Gemm as MatMul + Add: transA, transB, alpha and beta go into the operands."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name, graphs_of, names_in
from comq_onnx.graph.slots import is_standard
from comq_onnx.graph.tensors import FLOAT_DTYPES, Derived, Tensor, array_tensor, dtype_of, shape_of


def normalise_gemms(model: Model) -> None:
    """Give every Gemm with a constant weight ``transA = transB = 0`` and ``alpha = beta = 1``.

    transB and alpha go into the weight, beta into the bias; transA, and beta of a bias that is computed,
    become a Transpose and a Mul in front of the node. Integer Gemms are left alone.
    """
    taken = names_in(model)
    for graph in graphs_of(model):
        for node in [node for node in graph.nodes if is_standard(node, "Gemm")]:
            weight = node.inputs[1]
            if isinstance(weight, gs.Constant) and dtype_of(weight).name in FLOAT_DTYPES:
                _normalise(node, graph, taken)


def _normalise(node: gs.Node, graph: gs.Graph, taken: set[str]) -> None:
    attrs: dict[str, Any] = {name: node.attrs.pop(name, default) for name, default in _DEFAULTS.items()}
    weight = node.inputs[1]
    if attrs["transB"] or attrs["alpha"] != 1.0:
        node.inputs[1] = _scaled(weight, bool(attrs["transB"]), attrs["alpha"], taken)
    if attrs["transA"]:
        _before(node, 0, graph, taken, "Transpose", {"perm": [1, 0]})
    if attrs["beta"] != 1.0 and len(node.inputs) > 2 and not node.inputs[2].is_empty():
        bias = node.inputs[2]
        if isinstance(bias, gs.Constant):
            node.inputs[2] = _scaled(bias, False, attrs["beta"], taken)
        else:
            beta = array_tensor(
                free_name(f"{node.name}_beta", taken), np.array(attrs["beta"], dtype_of(weight))
            )
            _before(node, 2, graph, taken, "Mul", {}, beta)


_DEFAULTS: dict[str, Any] = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}


def _scaled(constant: gs.Constant, transpose: bool, factor: float, taken: set[str]) -> gs.Constant:
    """`constant` times `factor`, transposed if asked; it takes over the name where nothing else reads it."""
    held, dtype, shape = constant._values, dtype_of(constant), shape_of(constant)

    def compute() -> np.ndarray:
        array = held if isinstance(held, np.ndarray) else held.load()
        array = array.T if transpose else array
        return array if factor == 1.0 else (array.astype(np.float64) * factor).astype(dtype)

    values = Derived(shape[::-1] if transpose else shape, dtype, compute)
    # Other readers still mean the old values by the old name.
    name = constant.name if len(constant.outputs) == 1 else free_name(constant.name, taken)
    return gs.Constant(name, values)


def _before(
    node: gs.Node,
    index: int,
    graph: gs.Graph,
    taken: set[str],
    op: str,
    attrs: dict[str, Any],
    *more: Tensor,
) -> None:
    """Put an operator between `node` and what it reads at `index`."""
    source = node.inputs[index]
    name = free_name(f"{node.name}_{op}", taken)
    between = gs.Variable(free_name(f"{name}_output", taken), source.dtype)
    place = next(i for i, other in enumerate(graph.nodes) if other is node)
    graph.nodes = [
        *graph.nodes[:place],
        gs.Node(op, name, attrs, [source, *more], [between]),
        *graph.nodes[place:],
    ]
    node.inputs[index] = between
