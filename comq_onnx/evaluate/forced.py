"""What each part of a graph loses by itself: its nodes are fed with another model's values.

Errors that come from further up are left out so. The graph is cut at all tensors that both models have:
where one is read, its value is an input, and what the graph makes of it is an output beside it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from comq_onnx.graph.cut import reads_of

OWN = "comq/own/"
"""In front of the name of a tensor as the cut graph makes it"""


@dataclass(frozen=True)
class Part:
    """Nodes that make some tensors out of others."""

    model: onnx.ModelProto
    reads: tuple[str, ...]
    """Tensors that are fed, besides the graph's inputs"""
    makes: tuple[str, ...]
    """Its outputs are called ``OWN + name``"""


def cut_at(
    model: onnx.ModelProto, kinds: Mapping[str, np.dtype], parts: Sequence[Sequence[str]]
) -> Iterator[Part]:
    """The graph cut at the tensors in `kinds` (with their types), a model for each of the `parts` of them."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    order = {id(node): place for place, node in enumerate(model.graph.node)}
    for makes in parts:
        nodes, reads = _needed(makers, kinds, makes)
        made = onnx.ModelProto(ir_version=model.ir_version)
        made.opset_import.extend(model.opset_import)
        made.graph.name = "part"
        for node in sorted(nodes, key=lambda node: order[id(node)]):
            copy = made.graph.node.add()
            copy.CopyFrom(node)
            copy.output[:] = [OWN + name if name in kinds else name for name in node.output]
        used = {name for node in nodes for name in reads_of(node)}
        made.graph.initializer.extend(t for t in model.graph.initializer if t.name in used)
        made.graph.sparse_initializer.extend(model.graph.sparse_initializer)
        stored = {tensor.name for tensor in made.graph.initializer}
        made.graph.input.extend(i for i in model.graph.input if i.name in used - stored)
        made.graph.input.extend(_input(name, kinds[name]) for name in reads)
        # The runtime infers the types of outputs that declare none.
        made.graph.output.extend(onnx.ValueInfoProto(name=OWN + name) for name in makes)
        yield Part(made, tuple(reads), tuple(makes))


def _needed(
    makers: Mapping[str, onnx.NodeProto], cuts: Collection[str], makes: Sequence[str]
) -> tuple[list[onnx.NodeProto], list[str]]:
    """The nodes between the cuts and `makes`, and the tensors at the cuts that they read."""
    nodes: dict[int, onnx.NodeProto] = {}
    reads: dict[str, None] = {}
    left = [makers[name] for name in makes]
    while left:
        node = left.pop()
        if id(node) in nodes:
            continue
        nodes[id(node)] = node
        for name in sorted(reads_of(node)):
            if name in cuts:
                reads[name] = None
            elif name in makers:
                left.append(makers[name])
    return list(nodes.values()), list(reads)


def _input(name: str, kind: np.dtype) -> onnx.ValueInfoProto:
    """Of any shape."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), None)
