"""Loops that nothing ends within any time that a user would wait."""

from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from comq_onnx.errors import ComqError
from comq_onnx.graph.scopes import Scope, scopes

MOST_ROUNDS = 10_000_000
"""Of a loop that only its count ends: at a microsecond each, ten seconds for a sample"""


def check_loops(graph: GraphProto) -> None:
    """ComqError where a Loop of the graph, or of a graph inside it, runs on for more than `MOST_ROUNDS`.

    Of a count that is computed, and of a condition that may change, nothing can be told.
    """
    for scope in scopes(graph):
        for node in scope.graph.node:
            if node.op_type == "Loop" and node.domain in ("", "ai.onnx") and len(node.input) > 1:
                _check(node, scope)


def _check(node: NodeProto, scope: Scope) -> None:
    body = next((a.g for a in node.attribute if a.name == "body"), None)
    count = _number(node.input[0], scope) if node.input[0] else -1
    if body is None or count is None or 0 <= count <= MOST_ROUNDS or not _goes_on(node, body, scope):
        return
    often = f"{count:,} times" if count >= 0 else "for ever"
    raise ComqError(
        f"it would run {often}, and nothing else ends it",
        where=f"Loop {node.name or node.output[0]!r}",
        fix="export the model again",
    )


def _goes_on(node: NodeProto, body: GraphProto, scope: Scope) -> bool:
    """Whether the condition is true at first and the body hands it on."""
    if node.input[1] and not _number(node.input[1], scope):
        return False
    inside = next(scopes(body, scope))
    name = body.output[0].name if body.output else ""
    while (maker := inside.producers.get(name)) is not None and maker.op_type == "Identity":
        name = maker.input[0]
    handed_on = len(body.input) > 1 and name == body.input[1].name
    return handed_on or bool(_number(name, inside))


def _number(name: str, scope: Scope) -> int | None:
    """A constant of one number; None for all else, and for what a graph's caller may put in its place."""
    tensor, maker = scope.tensor(name), scope.producer(name)
    if maker is not None and maker.op_type == "Constant":
        tensor = next((a.t for a in maker.attribute if a.name == "value"), None)
    if tensor is None or tensor.data_type not in (TensorProto.INT64, TensorProto.BOOL):
        return None
    if tensor.data_location == TensorProto.EXTERNAL or any(value.name == name for value in scope.graph.input):
        return None
    values = numpy_helper.to_array(tensor)
    return int(values.reshape(-1)[0]) if values.size == 1 else None
