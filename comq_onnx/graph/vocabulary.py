"""How many ids an integer input may take: the size of the tables it indexes."""

from typing import cast

import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.slots import is_standard
from comq_onnx.graph.tensors import shape_of

PASSED_THROUGH = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def vocabulary(model: Model) -> dict[str, int]:
    """Entries of the smallest constant table that a graph input looks up, by name of the input."""
    sizes: dict[str, int] = {}
    for node in model.graph.nodes:
        if not is_standard(node, "Gather") or not isinstance(node.inputs[0], gs.Constant):
            continue
        name = _source(cast(gs.Variable, node.inputs[1]))
        if name in {cast(gs.Variable, tensor).name for tensor in model.graph.inputs}:
            axis = cast(int, node.attrs.get("axis", 0))
            size = shape_of(node.inputs[0])[axis]
            sizes[name] = min(size, sizes.get(name, size))
    return sizes


def _source(tensor: gs.Variable) -> str:
    """Name of the tensor that `tensor` is a view of."""
    while tensor.inputs and is_standard(tensor.inputs[0], *PASSED_THROUGH):
        tensor = tensor.inputs[0].inputs[0]
    return tensor.name
