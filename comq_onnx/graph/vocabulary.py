"""How many ids an integer input may take: the size of the tables it indexes."""

import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.tensors import shape_of

PASSED_THROUGH = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def vocabulary(model: Model) -> dict[str, int]:
    """Entries of the smallest constant table that each graph input looks up; inputs that look up none are absent."""
    sizes: dict[str, int] = {}
    for node in model.graph.nodes:
        if node.op != "Gather" or not isinstance(node.inputs[0], gs.Constant):
            continue
        name = _source(node.inputs[1])
        if name in {tensor.name for tensor in model.graph.inputs}:
            size = shape_of(node.inputs[0])[node.attrs.get("axis", 0)]
            sizes[name] = min(size, sizes.get(name, size))
    return sizes


def _source(tensor: gs.Tensor) -> str:
    while tensor.inputs and tensor.inputs[0].op in PASSED_THROUGH:
        tensor = tensor.inputs[0].inputs[0]
    return tensor.name
