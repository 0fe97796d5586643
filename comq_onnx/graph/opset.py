"""Raising the opset of a model, and checking that nothing was lost on the way."""

import re
from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import ModelProto, NodeProto, checker, defs, helper, shape_inference, version_converter

from comq_onnx.errors import ComqError
from comq_onnx.graph.external import is_external
from comq_onnx.graph.groupnorm import widen_groupnorms
from comq_onnx.graph.tensors import stored_bytes

_HIDDEN = "comq.hidden"
"""Domain that operators unknown to ONNX bear while the converter, which would stop at them, is at work."""
_SMALL = 1024


def raise_opset(proto: ModelProto, opset: int) -> ModelProto:
    """`proto` at `opset`, or `proto` itself where it is there already; the argument is not changed.

    Weights take no part: inputs stand for them meanwhile, so external ones are not read. Inputs, outputs,
    value_info, names, documentation and metadata are those of `proto`. Operators of the default domain that
    ONNX does not know (plugins of a runtime) are carried over as they are.

    Raises
    ------
    ComqError
        There is no way to express an operator in `opset`; the message names it.
    """
    before = _opset(proto)
    if before >= opset:
        return proto
    skeleton = without_weights(proto)
    widen_groupnorms(skeleton.graph, before, opset)
    _rename_domain(skeleton, before, hide=True)
    converted = _convert(skeleton, before, opset)
    _check(skeleton, converted, opset)
    _rename_domain(converted, before, hide=False)
    _rename_domain(skeleton, before, hide=False)
    _restore(converted, skeleton, proto)
    smallest = helper.find_min_ir_version_for(list(converted.opset_import), ignore_unknown=True)
    converted.ir_version = max(4, smallest)
    return converted


def nodes_in(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Every node of `graph` and its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_in(attribute.g)


def _opset(proto: ModelProto) -> int:
    return max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def without_weights(proto: ModelProto) -> ModelProto:
    """A copy of `proto` in which inputs stand for large, external and sparse initializers."""
    skeleton = ModelProto(ir_version=max(4, proto.ir_version))
    skeleton.opset_import.extend(proto.opset_import)
    graph = skeleton.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    present = {info.name for info in graph.input}
    stand_ins = []
    for tensor in proto.graph.initializer:
        if is_external(tensor) or stored_bytes(tensor) > _SMALL:
            stand_ins.append((tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    stand_ins += [(s.values.name, s.values.data_type, s.dims) for s in proto.graph.sparse_initializer]
    graph.input.extend(
        helper.make_tensor_value_info(*entry) for entry in stand_ins if entry[0] not in present
    )
    return skeleton


def _rename_domain(proto: ModelProto, opset: int, hide: bool) -> None:
    """Give the nodes that the converter must not touch a domain of their own, or take it from them again."""
    for node in nodes_in(proto.graph):
        if hide and node.domain in ("", "ai.onnx") and not _is_convertible(node.op_type, opset):
            node.domain = _HIDDEN
        elif not hide and node.domain == _HIDDEN:
            node.ClearField("domain")
    kept = [entry for entry in proto.opset_import if entry.domain != _HIDDEN]
    proto.ClearField("opset_import")
    proto.opset_import.extend([*kept, helper.make_opsetid(_HIDDEN, 1)] if hide else kept)


def _is_convertible(op: str, opset: int) -> bool:
    # The converter's adapter for GroupNormalization writes an invalid graph; `groupnorm` does its work.
    return op != "GroupNormalization" and defs.has(op, opset, "")


def _convert(skeleton: ModelProto, before: int, opset: int) -> ModelProto:
    try:
        return version_converter.convert_version(skeleton, opset)
    except (RuntimeError, version_converter.ConvertError, shape_inference.InferenceError) as error:
        raise ComqError(
            f"{_culprit(str(error), skeleton)} cannot be brought from opset {before} to opset {opset}",
            where="the model",
            fix=f"export the model with opset {opset} or above",
        ) from error


def _culprit(message: str, skeleton: ModelProto) -> str:
    """The operator that an error of the converter is about."""
    ops = {node.op_type for node in nodes_in(skeleton.graph)}
    named = [word for word in re.findall(r"\w+", message) if word in ops]
    return f"operator {named[-1]}" if named else "one of its operators"


def _check(skeleton: ModelProto, converted: ModelProto, opset: int) -> None:
    """ComqError where the converted graph is invalid though the original was not, or where nodes are gone."""
    where = "the model"
    fix = f"export the model with opset {opset} or above"
    lost = _own_ops(skeleton) - _own_ops(converted)
    if lost:
        raise ComqError(f"operator {min(lost)} was lost on the way to opset {opset}", where=where, fix=fix)
    try:
        checker.check_model(converted)
    except checker.ValidationError as error:
        if not _is_valid(skeleton):
            return  # what was wrong before is not the conversion's doing; the runtime will have its say
        culprit = _culprit(str(error), skeleton)
        raise ComqError(f"{culprit} comes out wrong at opset {opset}", where=where, fix=fix) from error


def _own_ops(proto: ModelProto) -> Counter[str]:
    """Operators that the converter has no business with."""
    return Counter(node.op_type for node in nodes_in(proto.graph) if node.domain not in ("", "ai.onnx"))


def _is_valid(proto: ModelProto) -> bool:
    try:
        checker.check_model(proto)
    except checker.ValidationError:
        return False
    return True


def _restore(converted: ModelProto, skeleton: ModelProto, original: ModelProto) -> None:
    """Put back around the converted nodes all that the converter dropped or added."""
    _restore_nodes(converted.graph, skeleton.graph)
    nodes = list(converted.graph.node)
    stand_ins = {info.name for info in skeleton.graph.input}
    present = {tensor.name for tensor in skeleton.graph.initializer}
    added = [t for t in converted.graph.initializer if t.name not in present and t.name not in stand_ins]
    opsets = list(converted.opset_import)
    # The fields are taken one by one, because a copy of the whole would hold every weight twice.
    graph = onnx.GraphProto()
    graph.node.extend(nodes)
    graph.initializer.extend(original.graph.initializer)
    graph.initializer.extend(added)
    for field in (
        "input",
        "output",
        "value_info",
        "sparse_initializer",
        "metadata_props",
        "quantization_annotation",
    ):
        getattr(graph, field).extend(getattr(original.graph, field))
    graph.name, graph.doc_string = original.graph.name, original.graph.doc_string
    converted.Clear()
    converted.graph.CopyFrom(graph)
    for descriptor, value in original.ListFields():
        if descriptor.name in ("graph", "opset_import", "functions"):
            continue
        if isinstance(value, int | str | bytes | float | bool):
            setattr(converted, descriptor.name, value)
        else:
            getattr(converted, descriptor.name).MergeFrom(value)
    converted.opset_import.extend(opsets)


def _restore_nodes(converted: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Give each node that came through the conversion its documentation and metadata again."""
    before = {node.output[0]: node for node in original.node if node.output and node.output[0]}
    for node in converted.node:
        source = before.get(node.output[0]) if node.output else None
        if source is None:
            continue
        if source.HasField("name"):
            node.name = source.name
        if source.op_type != node.op_type:
            continue
        node.doc_string = source.doc_string
        node.ClearField("metadata_props")
        node.metadata_props.extend(source.metadata_props)
        graphs = {attribute.name: attribute.g for attribute in source.attribute if attribute.HasField("g")}
        for attribute in node.attribute:
            if attribute.HasField("g") and attribute.name in graphs:
                _restore_subgraph(attribute.g, graphs[attribute.name])


def _restore_subgraph(converted: onnx.GraphProto, original: onnx.GraphProto) -> None:
    _restore_nodes(converted, original)
    for field in ("input", "output", "value_info", "metadata_props", "quantization_annotation"):
        converted.ClearField(field)
        getattr(converted, field).extend(getattr(original, field))
    converted.name, converted.doc_string = original.name, original.doc_string
