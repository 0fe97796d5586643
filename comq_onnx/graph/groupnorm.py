"""GroupNormalization of opset 18 to 20, with scale and bias per group, in the per-channel form of 21."""

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

PER_CHANNEL_OPSET = 21


def widen_groupnorms(graph: onnx.GraphProto, before: int, after: int) -> None:
    """Repeat scale and bias of each GroupNormalization for every channel of its group, in place.

    Nothing is done unless the step from opset `before` to `after` crosses 21. The number of channels is
    seldom known without shape inference, so it is read from the input's shape at run time; the vectors are
    short.
    """
    if not before < PER_CHANNEL_OPSET <= after:
        return
    nodes: list[NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                widen_groupnorms(attribute.g, before, after)
        if node.op_type == "GroupNormalization" and node.domain in ("", "ai.onnx"):
            nodes.extend(_widen(node))
        nodes.append(node)
    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def _widen(node: NodeProto) -> list[NodeProto]:
    """Nodes that make the per-channel scale and bias; `node` reads them afterwards."""
    groups = next(attribute.i for attribute in node.attribute if attribute.name == "num_groups")
    stem = f"{node.output[0]}_groups"
    constants = {
        "first": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "count": np.array([groups], np.int64),
        "column": np.array([groups, 1], np.int64),
        "flat": np.array([-1], np.int64),
    }
    names = {key: f"{stem}_{key}" for key in (*constants, "shape", "channels", "each", "target")}
    made = [_constant(names[key], value) for key, value in constants.items()]
    made += [
        helper.make_node("Shape", [node.input[0]], [names["shape"]]),
        helper.make_node("Slice", [names["shape"], names["first"], names["last"]], [names["channels"]]),
        helper.make_node("Div", [names["channels"], names["count"]], [names["each"]]),
        helper.make_node("Concat", [names["count"], names["each"]], [names["target"]], axis=0),
    ]
    for index, role in ((1, "scale"), (2, "bias")):
        source, column, wide, flat = (
            node.input[index],
            *(f"{stem}_{role}_{part}" for part in ("column", "wide", "flat")),
        )
        made += [
            helper.make_node("Reshape", [source, names["column"]], [column]),
            helper.make_node("Expand", [column, names["target"]], [wide]),
            helper.make_node("Reshape", [wide, names["flat"]], [flat]),
        ]
        node.input[index] = flat
    return made


def _constant(name: str, values: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))
