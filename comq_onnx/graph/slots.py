"""Which input of which operator is a weight."""

from collections.abc import Iterator, Mapping
from typing import Any

import onnx_graphsurgeon as gs

from comq_onnx.graph.tensors import Tensor

WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "MatMul": (1, 0),
    "Gemm": (1,),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gather": (0,),
}
"""Inputs that hold the weight of a quantizable operator, the usual one first."""

RECURRENT_INPUTS: dict[str, tuple[int, ...]] = {"LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}


def is_standard(node: gs.Node, *ops: str) -> bool:
    """Whether `node` is one of `ops` of the default domain."""
    return not node.domain and node.op in ops


def attribute(node: gs.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute of `node`, or `default` where it is absent."""
    attrs: Mapping[str, Any] = node.attrs
    return attrs.get(name, default)


def weight_input(node: gs.Node) -> int | None:
    """Index of the constant that is the weight of a quantizable node; None where there is none."""
    if node.domain:
        return None
    found = [i for i in WEIGHT_INPUTS.get(node.op, ()) if i < len(node.inputs) and _is_matrix(node.inputs[i])]
    return found[0] if found else None


def slots_of(tensor: Tensor) -> Iterator[tuple[gs.Node, int]]:
    """Every (node, input) that reads `tensor`, in whatever graph."""
    seen: set[int] = set()
    for node in list(tensor.outputs):
        if id(node) not in seen:
            seen.add(id(node))
            yield from ((node, index) for index, read in enumerate(node.inputs) if read is tensor)


def _is_matrix(tensor: Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and len(tensor.shape) >= 2
