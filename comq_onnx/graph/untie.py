"""A constant of its own for every node that can be quantized."""

import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name, graphs_of, names_in, nodes_of
from comq_onnx.graph.slots import WEIGHT_INPUTS
from comq_onnx.graph.tensors import FLOAT_DTYPES, dtype_of


def untie_weights(model: Model) -> None:
    """Give each quantizable node that shares its weight a constant of its own; the values are not copied.

    Readers that cannot be quantized, and graph outputs, keep the constant itself. Where there are none, the
    last node in order of execution keeps it.
    """
    taken = names_in(model)
    outputs = {id(tensor) for graph in graphs_of(model) for tensor in graph.outputs}
    for node, _ in nodes_of(model):
        for index in WEIGHT_INPUTS.get(node.op, ()) if not node.domain else ():
            weight = node.inputs[index] if index < len(node.inputs) else None
            if not isinstance(weight, gs.Constant) or dtype_of(weight).name not in FLOAT_DTYPES:
                continue
            if len(weight.outputs) > 1 or id(weight) in outputs:
                name = free_name(f"{weight.name}_{node.name}", taken)
                node.inputs[index] = gs.Constant(name, weight._values)
