"""A second graph over the same weights, at the same opset or a higher one."""

from collections import ChainMap

import onnx_graphsurgeon as gs
from onnx import helper

from comq_onnx.graph.io import Model, from_proto, write_model
from comq_onnx.graph.opset import raise_opset
from comq_onnx.graph.tensors import bytes_of, dtype_of, shape_of
from comq_onnx.graph.writer import Writer, homes_of

_SMALL = 1024  # operators read sizes, axes and the like from small constants, so those stay in the message


def copy_model(model: Model, opset: int = 0) -> Model:
    """A model with nodes and tensors of its own that shares the weights of `model`, at `opset` or above.

    The graph goes through a message in which inputs stand for the weights, so none of them is copied, and one
    that lies in an external file is not read.

    Raises
    ------
    ComqError
        An operator cannot be brought to `opset`.
    """
    homes: dict[int, int] = {}
    constants = homes_of(model.graph, homes, model.sources)
    kept = {
        id(tensor)
        for graph in (model.graph, *model.graph.subgraphs(recursive=True))
        for tensor in graph.outputs
    }
    heavy = {key: c for key, c in constants.items() if bytes_of(c) > _SMALL and key not in kept}
    names = {key: f"comq.weight.{number}" for number, key in enumerate(heavy)}
    proto = write_model(model, Writer(model.sources, embed=True, left_out=names))
    proto.graph.input.extend(
        helper.make_tensor_value_info(names[key], helper.np_dtype_to_tensor_dtype(dtype_of(c)), shape_of(c))
        for key, c in heavy.items()
    )
    raised = raise_opset(proto, opset)
    del raised.graph.input[len(model.graph.inputs) :]
    twins = {key: gs.Constant(constant.name, constant._values) for key, constant in heavy.items()}
    copy = from_proto(raised, None, ChainMap({names[key]: twin for key, twin in twins.items()}))
    copy.path = model.path
    for key, twin in twins.items():
        if homes[key] == id(model.graph):
            copy.sources.constants[id(twin)] = twin
            copy.sources.homes[id(twin)] = id(copy.graph)
        if key in model.sources.values:
            copy.sources.values[id(twin)] = (twin, model.sources.values[key][1])
    return copy
