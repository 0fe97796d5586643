"""A model run part by part over all samples, so that only one part's weights are in memory at a time."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from comq_onnx.errors import ComqError
from comq_onnx.graph.cut import NOT_TENSORS, RANDOM_OPS, reads_of
from comq_onnx.graph.tensors import Stored, stored_bytes
from comq_onnx.run.session import SessionOptions, open_session
from comq_onnx.run.store import Store
from comq_onnx.run.tapped import graph_inputs

Batches = Iterable[Mapping[str, np.ndarray]]
ITEM = 4
"""Bytes of a float32"""
_RUN = "parts"
"""The network that tensors are stored under"""


@dataclass(frozen=True)
class Part:
    """Neighbouring nodes, and those that make constants for them, which other parts may have as well."""

    nodes: tuple[NodeProto, ...]
    reads: tuple[str, ...]
    """Tensors made by earlier parts, or inputs of the graph"""
    keeps: tuple[str, ...]
    """Tensors made here that a later part reads, or that are outputs of the graph"""
    frees: tuple[str, ...]
    """Tensors read here that no later part reads, and that are no outputs"""


def parts_of(graph: GraphProto, most: int) -> list[Part]:
    """The nodes of a topologically sorted graph in parts, whose weights take up to `most` bytes in float32.

    A part of one node may take more. ComqError where something other than a tensor would have to go from one
    part to another.
    """
    # Once: each look at a message's nodes makes others, and they are told apart by identity here.
    whole = list(graph.node)
    behind = _constant_nodes(graph, whole)
    groups = _groups(graph, whole, behind, most)
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    made_in = dict.fromkeys(inputs, -1)
    for at, nodes in enumerate(groups):
        for node in nodes:
            for name in filter(None, node.output):
                made_in.setdefault(name, at)
    constant = {name for node in behind for name in node.output}
    last: dict[str, int] = {}
    for at, nodes in enumerate(groups):
        last |= {name: at for node in nodes for name in reads_of(node)}
    outputs = {value.name for value in graph.output}
    last |= dict.fromkeys(outputs, len(groups))
    return [_part(at, nodes, constant, (made_in, last, outputs)) for at, nodes in enumerate(groups)]


def outputs_in_parts(
    model: ModelProto, batches: Batches, options: SessionOptions, room: tuple[int, int]
) -> list[dict[str, np.ndarray]]:
    """What the model answers to each batch, as `session.outputs_on` tells of one session.

    Parameters
    ----------
    model
        Topologically sorted; weights in external files are named by absolute paths.
    batches
        Feeds by input name.
    options
        How each part is run.
    room
        Bytes of a part's weights, and of live tensors: beyond these, tensors go to disk.
    """
    parts, store = parts_of(model.graph, room[0]), Store(room[1])
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    infos = {value.name: value for value in model.graph.input}
    fed = graph_inputs(model)
    count = 0
    for count, batch in enumerate(batches, 1):
        for name in fed:
            store.put((_RUN, name, count - 1), np.asarray(batch[name]))
    for part in parts:
        if not part.keeps:
            continue
        session = open_session(
            cut_out(model, part.nodes, (part.reads, part.keeps), constants, infos), options
        )
        for number in range(count):
            feeds = {name: store.get((_RUN, name, number)) for name in part.reads}
            for name, value in session.run(feeds, part.keeps).items():
                store.put((_RUN, name, number), value)
            for name in part.frees:
                store.drop((_RUN, name, number))
        for spec in session.outputs:
            infos[spec.name] = _info(spec.name, store.get((_RUN, spec.name, 0)), spec.shape)
    names = [value.name for value in model.graph.output]
    stored = {name: Stored(constants[name]).load() for name in names if name in constants}
    return [
        {name: stored[name] if name in stored else store.get((_RUN, name, number)) for name in names}
        for number in range(count)
    ]


def unpacked_bytes(tensor: TensorProto) -> int:
    """Bytes of the values of `tensor`; of integer codes, as the floats that a runtime may make of them."""
    return max(stored_bytes(tensor), ITEM * math.prod(tensor.dims))


def cut_out(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    ends: tuple[Iterable[str], Iterable[str]],
    constants: Mapping[str, TensorProto],
    infos: Mapping[str, onnx.ValueInfoProto],
) -> ModelProto:
    """A model of some nodes of another: `ends` are its inputs, of which `infos` tell, and its outputs."""
    graph = GraphProto(name=model.graph.name or "segment")
    graph.node.extend(nodes)
    graph.input.extend(infos[name] for name in ends[0])
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends[1])
    mentioned = dict.fromkeys(name for node in nodes for name in sorted(reads_of(node)))
    graph.initializer.extend(constants[name] for name in mentioned if name in constants)
    part = ModelProto(ir_version=model.ir_version, graph=graph)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    return part


def _info(name: str, value: np.ndarray, shape: Sequence[int | None]) -> onnx.ValueInfoProto:
    """Of a tensor between two parts; axes that the runtime does not know may differ from batch to batch."""
    axes = shape if len(shape) == value.ndim else [None] * value.ndim
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype) if value.dtype.kind not in "OU" else None
    return onnx.helper.make_tensor_value_info(name, kind or TensorProto.STRING, axes)


def _constant_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Nodes that compute with constants alone, in order."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {sparse.values.name for sparse in graph.sparse_initializer}
    found = []
    for node in nodes:
        if node.op_type not in RANDOM_OPS and reads_of(node) <= constants:
            found.append(node)
            constants.update(node.output)
    return found


def _groups(
    graph: GraphProto, nodes: Sequence[NodeProto], behind: Sequence[NodeProto], most: int
) -> list[list[NodeProto]]:
    """The nodes, in order; those `behind`, which make constants, are where they are read."""
    sizes = {tensor.name: unpacked_bytes(tensor) for tensor in graph.initializer}
    maker = {name: node for node in behind for name in node.output if name}
    apart = {id(node) for node in behind}
    outputs = {value.name for value in graph.output}
    groups: list[list[NodeProto]] = []
    here: dict[int, NodeProto] = {}
    weights: set[str] = set()
    order = {id(node): place for place, node in enumerate(nodes)}
    for node in nodes:
        if id(node) in apart and outputs.isdisjoint(node.output):
            continue
        needed = _with_makers(node, maker)
        read = {name for each in needed for name in reads_of(each) if name in sizes}
        if here and sum(sizes[name] for name in weights | read) > most:
            groups.append(sorted(here.values(), key=lambda each: order[id(each)]))
            here, weights = {}, set()
        here |= {id(each): each for each in needed}
        weights |= read
    if here:
        groups.append(sorted(here.values(), key=lambda each: order[id(each)]))
    return groups


def _with_makers(node: NodeProto, maker: Mapping[str, NodeProto]) -> list[NodeProto]:
    found, queue = {id(node): node}, [node]
    while queue:
        for name in reads_of(queue.pop()):
            if name in maker and id(maker[name]) not in found:
                found[id(maker[name])] = maker[name]
                queue.append(maker[name])
    return list(found.values())


def _part(
    at: int,
    nodes: Sequence[NodeProto],
    constant: set[str],
    lives: tuple[Mapping[str, int], Mapping[str, int], set[str]],
) -> Part:
    made_in, last, outputs = lives
    made = {name for node in nodes for name in node.output if name}
    read = dict.fromkeys(name for node in nodes for name in sorted(reads_of(node)))
    reads = tuple(name for name in read if name not in made and made_in.get(name, at) < at)
    keeps = tuple(
        name
        for node in nodes
        for name in node.output
        if name
        and made_in[name] == at
        and last.get(name, -1) > at
        and (name not in constant or name in outputs)
    )
    for node in nodes:
        if node.op_type in NOT_TENSORS and not set(keeps).isdisjoint(node.output):
            raise ComqError(
                f"'{node.name}' ({node.op_type}) makes something other than a tensor",
                where="the model cannot be run part by part",
            )
    return Part(tuple(nodes), reads, keeps, tuple(name for name in reads if last[name] == at))
