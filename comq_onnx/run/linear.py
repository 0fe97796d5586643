"""One layer by itself, without its bias: a linear map, which may be applied to means."""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from comq_onnx.graph.edit import BIAS_INPUT
from comq_onnx.records import Layer
from comq_onnx.run.session import SessionOptions, open_session


def linear(
    node: NodeProto,
    layer: Layer,
    weight: np.ndarray,
    x: np.ndarray,
    model: ModelProto,
    options: SessionOptions,
) -> np.ndarray:
    """The product of the layer's node with another `weight` and input, in float64.

    `model` tells the opset; `weight` has the shape and the element type of the layer's, `x` is cast to it.
    """
    bare = NodeProto()
    bare.CopyFrom(node)
    if layer.op != "MatMul":
        del bare.input[BIAS_INPUT:]
    x = x.astype(weight.dtype)
    info = helper.make_tensor_value_info(layer.input, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    graph = helper.make_graph(
        [bare],
        "layer",
        [info],
        [onnx.ValueInfoProto(name=layer.output)],
        [numpy_helper.from_array(weight, layer.weight)],
    )
    single = ModelProto(ir_version=model.ir_version, graph=graph)
    single.opset_import.extend(model.opset_import)
    return (
        open_session(single, options).run({layer.input: x}, [layer.output])[layer.output].astype(np.float64)
    )
