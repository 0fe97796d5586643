"""Model-local functions, inlined: every later step sees plain operators."""

import onnx
from onnx import ModelProto, inliner

from comq_onnx.errors import ComqError


def inline_functions(proto: ModelProto) -> ModelProto:
    """`proto` with every call of a model-local function replaced by the function's nodes.

    Weights take no part: they are taken out of the message for the time of the inlining.
    """
    bare = ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.initializer[:]
    del bare.graph.sparse_initializer[:]
    # A name in the function that is also an initializer's must still be seen as taken.
    stand_ins = _declare(bare, proto.graph)
    try:
        inlined = inliner.inline_local_functions(bare, convert_version=True)
    except (RuntimeError, onnx.checker.ValidationError) as error:
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
