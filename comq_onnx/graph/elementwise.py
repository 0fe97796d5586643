"""What a tensor goes through, element by element, before anything else sees it: SiLU, Gelu and their like.

Exporters write these as several nodes. The nodes between a tensor and one that all its paths meet in are one
function of a number, if each works on elements and knows nothing but that tensor and numbers.
"""

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from comq_onnx.graph.cut import reads_of

ELEMENTWISE = frozenset(
    (
        "Abs",
        "Add",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
    )
    + (
        "Mul",
        "Neg",
        "Pow",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sub",
        "Swish",
        "Tanh",
    )
)

OTHER_FLOATS = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))


def function_behind(model: ModelProto, tensor: str) -> ModelProto | None:
    """A model of one input and one output, vectors both: the function that everything sees `tensor` through.

    It computes in float32, whatever the type of `tensor`. None where something reads the tensor as it is.
    """
    graph = model.graph
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in reads_of(node):
            readers.setdefault(name, []).append(node)
    numbers = {t.name for t in graph.initializer if all(size == 1 for size in t.dims)}
    outputs = {value.name for value in graph.output}
    nodes: list[NodeProto] = []
    known, last = {tensor}, 0
    for node in graph.node:
        others = set(node.input) - numbers - {""}
        if not others or not others <= known:
            continue
        if node.op_type not in ELEMENTWISE or node.domain:
            continue
        nodes.append(node)
        known.add(node.output[0])
        if _meets(tensor, nodes, readers, outputs):
            last = len(nodes)
    return _as_model(model, tensor, nodes[:last]) if last else None


def _meets(
    tensor: str, nodes: Sequence[NodeProto], readers: dict[str, list[NodeProto]], outputs: set[str]
) -> bool:
    """Whether all that reads `tensor`, or what is made of it, is among `nodes`; the last output apart."""
    inside = {id(node) for node in nodes}
    made = [tensor, *(node.output[0] for node in nodes[:-1])]
    return all(
        name not in outputs and all(id(reader) in inside for reader in readers.get(name, ())) for name in made
    )


def _as_model(model: ModelProto, tensor: str, nodes: Sequence[NodeProto]) -> ModelProto:
    read = {name for node in nodes for name in node.input}
    graph = GraphProto(name="function")
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["n"]))
    graph.output.append(ValueInfoProto(name=nodes[-1].output[0]))
    for constant in model.graph.initializer:
        if constant.name in read:
            graph.initializer.append(_as_number(constant))
    found = ModelProto(ir_version=model.ir_version, graph=graph)
    found.opset_import.extend(model.opset_import)
    return found


def _as_number(constant: TensorProto) -> TensorProto:
    """The one value of `constant` without axes; in float32 where it is of another floating type."""
    value = numpy_helper.to_array(constant).reshape(())
    if constant.data_type in OTHER_FLOATS:
        value = value.astype(np.float32)
    return numpy_helper.from_array(value, constant.name)
