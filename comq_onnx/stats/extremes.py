"""How large the values of a graph's tensors get: what decides where half precision is safe."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from comq_onnx.graph.precision import element_types
from comq_onnx.run.session import SessionOptions, open_session
from comq_onnx.run.widen import widen

PREFIX = "comq/largest/"


def extremes(
    proto: onnx.ModelProto, batches: Iterable[Mapping[str, np.ndarray]], device: str = "cpu"
) -> dict[str, float]:
    """Largest absolute value, by name, of each float32 tensor that the nodes of the main graph make.

    The maxima are taken inside the graph, so that no activation outlives its readers; what is narrower than
    float32 is computed in it. Infinity or NaN is what it is. ComqError where the model does not run.
    """
    types = element_types(proto)
    fed = [value.name for value in proto.graph.input]
    made = [name for node in proto.graph.node for name in node.output]
    names = [name for name in (*fed, *made) if types.get(name) == TensorProto.FLOAT]
    if not names:
        return {}
    session = open_session(widen(_measuring(proto, names)), SessionOptions(fold_dq=True, device=device))
    found = np.zeros(len(names))
    for batch in batches:
        outputs = session.run(batch)
        found = np.maximum(found, [float(outputs[PREFIX + name]) for name in names])
    return dict(zip(names, found.tolist(), strict=True))


def _measuring(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """`proto` whose outputs are the largest absolute values of these tensors."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    del graph.output[:]
    for index, name in enumerate(names):
        made, label = f"{PREFIX}{name}", f"{PREFIX}{index}"
        graph.node.append(helper.make_node("Abs", [name], [f"{made}/abs"], name=f"{label}/abs"))
        graph.node.append(helper.make_node("ReduceMax", [f"{made}/abs"], [made], name=label, keepdims=0))
        graph.output.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, []))
    return model
