"""What stands between two operators in the way of 8-bit kernels, taken out: Identity, Pad, Add of a bias.

Runtimes match patterns of neighbours: a Conv whose bias is an Add of its own, or whose padding is a Pad, is
not taken for one with 8-bit inputs and outputs.
"""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import free_name, names_in
from comq_onnx.graph.slots import attribute, is_standard, slots_of
from comq_onnx.graph.tensors import Tensor, float_tensor, shape_of, values_of

PADS_INPUT, VALUE_INPUT, AXES_INPUT = 1, 2, 3
BIAS_INPUT = 2
SPATIAL = 2
"""The first axis of an image; batch and channel come before it."""
RANDOM = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)


def drop_identities(model: Model) -> None:
    """Let the readers of an Identity of an activation read what it copies. Graph outputs keep theirs."""
    graph = model.graph
    kept = {id(tensor) for tensor in graph.outputs}
    for node in [n for n in graph.nodes if is_standard(n, "Identity")]:
        source, copy = node.inputs[0], node.outputs[0]
        if isinstance(source, gs.Constant) or id(copy) in kept:
            continue
        for reader, index in list(slots_of(copy)):
            reader.inputs[index] = source
        _remove(graph, node)


def fold_addends(model: Model) -> None:
    """Fold the Add of a constant for each channel into the Conv or ConvTranspose whose output it alone reads.

    The sum is taken in float64, then rounded to the element type of the weight.
    """
    graph, taken = model.graph, names_in(model)
    kept, inside = {id(tensor) for tensor in graph.outputs}, {id(node) for node in graph.nodes}
    for node in [n for n in graph.nodes if is_standard(n, "Conv", "ConvTranspose")]:
        output, weight = node.outputs[0], node.inputs[1]
        if id(output) in kept or len(output.outputs) != 1 or not isinstance(weight, gs.Constant):
            continue
        add, held = output.outputs[0], node.inputs[BIAS_INPUT] if len(node.inputs) > BIAS_INPUT else None
        shape = shape_of(weight)
        if len(shape) < 3:  # no weight of a convolution
            continue
        transposed = node.op == "ConvTranspose"
        channels = shape[1] * attribute(node, "group", 1) if transposed else shape[0]
        addend = _addend(add, output, channels, len(shape))
        if (
            addend is None
            or id(add) not in inside
            or (held is not None and not held.is_empty() and not isinstance(held, gs.Constant))
        ):
            continue
        total = addend + (0 if held is None or held.is_empty() else values_of(held).astype(np.float64))
        bias = float_tensor(free_name(f"{weight.name}_bias", taken), total, str(values_of(weight).dtype))
        if held is None:
            node.inputs.append(bias)
        else:
            node.inputs[BIAS_INPUT] = bias
        result = add.outputs[0]
        _remove(graph, add)
        node.outputs[0] = result


def fold_pads(model: Model) -> None:
    """Fold a Pad with zeros along the axes of an image into the convolutions that alone read it."""
    graph = model.graph
    kept = {id(tensor) for tensor in graph.outputs}
    for pad in [n for n in graph.nodes if is_standard(n, "Pad")]:
        padded = pad.outputs[0]
        readers = list(slots_of(padded))
        if id(padded) in kept or not readers or not all(_takes_pads(n, i) for n, i in readers):
            continue
        pads = _zero_pads(pad, model.opset, len(attribute(readers[0][0], "kernel_shape", ())) + SPATIAL)
        if pads is None:
            continue
        for conv, index in readers:
            spatial = len(pads) // 2
            own = attribute(conv, "pads") or [0] * (2 * spatial)
            conv.attrs["pads"] = [a + b for a, b in zip(own, pads, strict=True)]
            conv.attrs.pop("auto_pad", None)
            conv.inputs[index] = pad.inputs[0]
        _remove(graph, pad)
    _drop_unread(graph)


def _addend(add: gs.Node, output: Tensor, channels: int, rank: int) -> np.ndarray | None:
    """``[channels]`` in float64 if `add` adds `output` and one number for each channel; None otherwise."""
    if not is_standard(add, "Add") or len(add.outputs) != 1:
        return None
    others = [tensor for tensor in add.inputs if tensor is not output]
    if len(others) != 1 or not isinstance(others[0], gs.Constant):
        return None
    shape = shape_of(others[0])
    spread = (1,) * (rank - len(shape)) + shape
    if len(shape) > rank or any(size != 1 for axis, size in enumerate(spread) if axis != 1):
        return None
    if spread[1] not in (1, channels):
        return None
    return np.broadcast_to(values_of(others[0]).astype(np.float64).reshape(-1), channels)


def _takes_pads(node: gs.Node, index: int) -> bool:
    return (
        is_standard(node, "Conv")
        and index == 0
        and attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and bool(attribute(node, "kernel_shape"))
    )


def _zero_pads(pad: gs.Node, opset: int, rank: int) -> list[int] | None:
    """Begins, then ends, along the axes of an image; None where it pads otherwise or that is not known."""
    inputs = [*pad.inputs, *[gs.Variable.empty()] * AXES_INPUT][: AXES_INPUT + 1]
    mode = attribute(pad, "mode", "constant")
    if mode != "constant" or not inputs[AXES_INPUT].is_empty() or len(pad.inputs) < SPATIAL:
        return None
    value = inputs[VALUE_INPUT]
    if not value.is_empty() and not (isinstance(value, gs.Constant) and not np.any(values_of(value))):
        return None
    pads = constant_value(inputs[PADS_INPUT], opset)
    if pads is None or pads.size != 2 * rank or np.any(pads < 0):
        return None
    begins, ends = pads[:rank].tolist(), pads[rank:].tolist()
    if any((*begins[:SPATIAL], *ends[:SPATIAL])):
        return None
    return [*begins[SPATIAL:], *ends[SPATIAL:]]


def constant_value(tensor: Tensor, opset: int) -> np.ndarray | None:
    """The value of a small tensor that depends on constants alone; None for any other."""
    if isinstance(tensor, gs.Constant):
        return values_of(tensor)
    nodes: list[gs.Node] = []
    queue: list[Tensor] = [tensor]
    while queue:
        wanted = queue.pop()
        if isinstance(wanted, gs.Constant) or wanted.is_empty():
            continue
        maker = wanted.inputs[0] if wanted.inputs else None
        if maker is None or maker.domain or maker.op in RANDOM or list(maker.subgraphs()):
            return None
        if not any(node is maker for node in nodes):
            nodes.append(maker)
            queue.extend(maker.inputs)
    ordered = gs.Graph(nodes=nodes[::-1], outputs=[tensor], opset=opset).toposort()
    proto = gs.export_onnx(ordered, do_type_check=False)
    values: Any = ReferenceEvaluator(proto).run(None, {})
    return np.asarray(values[0])


def _drop_unread(graph: gs.Graph) -> None:
    """Take out nodes that nobody reads: what computed the sizes of a Pad."""
    kept = {id(tensor) for tensor in graph.outputs}
    left = len(graph.nodes) + 1
    while len(graph.nodes) < left:
        left = len(graph.nodes)
        for node in graph.nodes[::-1]:
            if all(not tensor.outputs and id(tensor) not in kept for tensor in node.outputs):
                _remove(graph, node)


def _remove(graph: gs.Graph, node: gs.Node) -> None:
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes = [other for other in graph.nodes if other is not node]
