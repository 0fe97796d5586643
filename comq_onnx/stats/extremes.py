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
    """Largest absolute value, by name, of each float32 tensor of the main graph that the samples reach.

    The maxima are taken inside the graph, so that no activation outlives its readers; what is narrower than
    float32 is computed in it. Infinity or NaN is what it is. Tensors made from constants alone are left out.
    ComqError where the model does not run.
    """
    names = _reached(proto)
    if not names:
        return {}
    session = open_session(widen(_measuring(proto, names)), SessionOptions(fold_dq=True, device=device))
    found = np.zeros(len(names))
    for batch in batches:
        outputs = session.run(batch)
        found = np.maximum(found, [float(outputs[PREFIX + name]) for name in names])
    return dict(zip(names, found.tolist(), strict=True))


def _reached(proto: onnx.ModelProto) -> list[str]:
    """float32 tensors that depend on the inputs, those included."""
    types = element_types(proto)
    stored = {tensor.name for tensor in proto.graph.initializer}
    reached = [value.name for value in proto.graph.input if value.name not in stored]
    seen = set(reached)
    for node in proto.graph.node:
        if seen.intersection(node.input) or any(a.HasField("g") for a in node.attribute):
            reached += [name for name in node.output if name]
            seen.update(node.output)
    return [name for name in reached if types.get(name) == TensorProto.FLOAT]


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
