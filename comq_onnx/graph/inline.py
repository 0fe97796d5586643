"""Model-local functions, inlined: every later step sees plain operators."""

from collections.abc import Iterable

import onnx
from onnx import ModelProto, NodeProto, inliner

from comq_onnx.errors import ComqError

WITHOUT = "export it without functions"
MOST_NODES = 1_000_000
"""Nodes that a model with functions may come to"""
DEEPEST = 200
"""Functions that may call each other in a row"""


def inline_functions(proto: ModelProto) -> ModelProto:
    """`proto` with every call of a model-local function replaced by the function's nodes.

    Weights take no part: they are taken out of the message for the time of the inlining.
    """
    _check_calls(proto)
    bare = ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.initializer[:]
    del bare.graph.sparse_initializer[:]
    # A name in the function that is also an initializer's must still be seen as taken.
    stand_ins = _declare(bare, proto.graph)
    try:
        inlined = inliner.inline_local_functions(bare, convert_version=True)
    except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        names = ", ".join(sorted({function.name for function in proto.functions})[:3])
        raise ComqError(
            f"its model-local functions ({names}) cannot be inlined: {first_line(error)}",
            where="the model",
            fix="inline them with onnx.inliner or export without functions",
        ) from error
    kept = [info for info in inlined.graph.input if info.name not in stand_ins]
    del inlined.graph.input[:]
    inlined.graph.input.extend(kept)
    inlined.graph.initializer.extend(proto.graph.initializer)
    inlined.graph.sparse_initializer.extend(proto.graph.sparse_initializer)
    inlined.ClearField("functions")
    return inlined


def _check_calls(proto: ModelProto) -> None:
    """ComqError where functions call each other in a circle, or make too many nodes of few."""
    bodies = {(f.domain, f.name, f.overload): f for f in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}

    def nodes_of(nodes: Iterable[NodeProto], within: tuple[tuple[str, str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in within:
                raise ComqError("it calls itself", where=f"function {node.op_type!r}", fix=WITHOUT)
            if key in bodies and len(within) > DEEPEST:
                raise ComqError("functions call each other too deeply", where="the model", fix=WITHOUT)
            if key in bodies and key not in sizes:
                sizes[key] = nodes_of(bodies[key].node, (*within, key))
            graphs = [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs)]
            inner = sum(nodes_of(graph.node, within) for graph in graphs)
            total += sizes.get(key, 1) + inner
        if total > MOST_NODES:
            raise ComqError(
                f"its functions come to more than {MOST_NODES:,} nodes", where="the model", fix=WITHOUT
            )
        return total

    nodes_of(proto.graph.node, ())


def first_line(error: BaseException) -> str:
    """The first line of an error of the ONNX library, without what it says about its own sources."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _declare(bare: ModelProto, graph: onnx.GraphProto) -> set[str]:
    present = {info.name for info in bare.graph.input}
    types = [(t.name, t.data_type, t.dims) for t in graph.initializer]
    types += [(s.values.name, s.values.data_type, s.dims) for s in graph.sparse_initializer]
    missing = [entry for entry in types if entry[0] not in present]
    bare.graph.input.extend(onnx.helper.make_tensor_value_info(*entry) for entry in missing)
    return {entry[0] for entry in missing}
