"""A float32 graph in half precision: float16 between float32 inputs and outputs, Casts at every border."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from comq_onnx.graph.locate import free_name
from comq_onnx.graph.opset import nodes_in
from comq_onnx.graph.precision import ANY, TELLING, Facts, facts_of, reasons, takes_half
from comq_onnx.graph.tensors import Stored

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


@dataclass(frozen=True)
class Halved:
    """A graph in half precision, and what of it is not."""

    proto: onnx.ModelProto
    kept: Mapping[str, str]
    """Why a node stays float32, by its name"""

    def notes(self) -> tuple[str, ...]:
        """What a user should hear: nodes that stay float32 for another reason than what they compute."""
        by_reason: dict[str, list[str]] = {}
        for name, why in self.kept.items():
            if why in TELLING:
                by_reason.setdefault(why, []).append(name)
        return tuple(
            f"float32 in the float16 graph ({why}): {len(names)} nodes, such as {names[0]}."
            for why, names in by_reason.items()
        )


def to_half(proto: onnx.ModelProto, extremes: Mapping[str, float]) -> Halved:
    """`proto` with float16 wherever that is safe; `proto` itself is not changed.

    Inputs and outputs keep names and types, nodes their names. Tensors keep their names, except that a
    float16 that becomes an output, or is read by the body of an If or Loop, is ``<name>_half`` before the
    Cast. Bodies stay float32.

    Parameters
    ----------
    proto
        A topologically sorted model; values in external files are named by absolute paths.
    extremes
        Largest absolute value of tensors by name; what reads or makes one above 3e4 or below 2**-13 stays
        float32. Those that are absent count as fit.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    _take_in_constants(made.graph)
    facts = facts_of(made, extremes)
    kept = reasons(facts)
    names = {facts.nodes[place].name or f"node {place}": why for place, why in kept.items()}
    _Writer(made, facts, kept).write()
    return Halved(made, names)


def holds_half(proto: onnx.ModelProto) -> bool:
    """Whether a Cast makes float16, or some float16 constant of the main graph takes part as such.

    Those that are only stored so do not: all that is done with them is a Cast, or a lookup of rows in front
    of one.
    """
    nodes = list(nodes_in(proto.graph))
    casts = (a.i for n in nodes if n.op_type == "Cast" for a in n.attribute if a.name == "to")
    if HALF in casts:
        return True
    halves = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == HALF}
    looked_up = {
        n.output[0] for n in nodes if n.op_type == "Gather" and not n.domain and n.input[0] in halves
    }
    ends = {value.name for value in proto.graph.output} & (halves | looked_up)
    computing = (
        name
        for n in nodes
        if n.op_type != "Cast"
        for place, name in enumerate(n.input)
        if name in looked_up or (name in halves and not (n.op_type == "Gather" and place == 0))
    )
    return bool(ends) or any(computing)


class _Writer:
    """Writes the nodes of a graph again, each in the type it computes in."""

    def __init__(self, model: onnx.ModelProto, facts: Facts, kept: Mapping[int, str]) -> None:
        self.graph, self.facts, self.kept = model.graph, facts, kept
        self.taken = _names(model.graph)
        self.nodes: list[NodeProto] = []
        self.homes: dict[str, int] = {}
        """What a float32 tensor of the old graph is made as; FLOAT where it is absent"""
        self.versions: dict[tuple[str, int], str] = {}
        """Name of a tensor in each element type it is there in"""

    def write(self) -> None:
        """Put the new nodes, constants and types in place of the old ones."""
        wanted = self._wanted_constants()
        for name in self.facts.pinned:
            if name in self.facts.constants:
                wanted.setdefault(name, set()).add(FLOAT)
        for name, types in wanted.items():
            self._constant(name, types)
        for place, node in enumerate(self.facts.nodes):
            self._node(place, node)
        graph = self.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        for info in graph.value_info:
            if self.versions.get((info.name, HALF)) == info.name:
                info.type.tensor_type.elem_type = HALF

    def _wants(self, place: int, node: NodeProto) -> list[int]:
        """The element type that each input is to have; 0 where it may have either or is no float32."""
        if node.op_type in ANY and node.domain in ("", "ai.onnx"):
            return [0] * len(node.input)
        free = [False] * len(node.input) if place in self.kept else self._free(node)[0]
        floats = [self.facts.is_float(name) for name in node.input]
        return [(HALF if f else FLOAT) if real else 0 for f, real in zip(free, floats, strict=True)]

    def _free(self, node: NodeProto) -> tuple[list[bool], list[bool]]:
        if not any(self.facts.is_float(name) for name in (*node.input, *node.output)):
            return [False] * len(node.input), [False] * len(node.output)
        return takes_half(node, self.facts.opset)

    def _wanted_constants(self) -> dict[str, set[int]]:
        wanted: dict[str, set[int]] = {}
        for place, node in enumerate(self.facts.nodes):
            for name, kind in zip(node.input, self._wants(place, node), strict=True):
                if name in self.facts.constants and self.facts.is_float(name):
                    wanted.setdefault(name, set()).add(kind or FLOAT)
        return wanted

    def _constant(self, name: str, types: set[int]) -> None:
        """Store a constant in the types it is read in; float16 alone keeps its name."""
        if HALF not in types:
            return
        tensor = self.facts.constants[name]
        half = Stored(tensor).load().astype(np.float16)
        if FLOAT in types:
            new = free_name(f"{name}_half", self.taken)
            self.graph.initializer.append(numpy_helper.from_array(half, new))
        else:
            new = name
            tensor.CopyFrom(numpy_helper.from_array(half, name))
        self.versions[name, HALF] = new

    def _node(self, place: int, node: NodeProto) -> None:
        made = NodeProto()
        made.CopyFrom(node)
        for index, kind in enumerate(self._wants(place, node)):
            if kind:
                made.input[index] = self._version(node.input[index], kind)
            elif node.op_type in ANY and node.input[index] in self.homes:
                made.input[index] = self.versions[node.input[index], self.homes[node.input[index]]]
        self.nodes.append(made)
        if place in self.kept:
            return
        made_half = self._free(node)[1]
        _retype(made, [self.facts.is_float(name) for name in node.output])
        for index, name in enumerate(node.output):
            if made_half[index] and self.facts.is_float(name):
                self._half_output(made, index, name)

    def _half_output(self, made: NodeProto, index: int, name: str) -> None:
        self.homes[name] = HALF
        pinned = name in self.facts.pinned
        new = free_name(f"{name}_half", self.taken) if pinned else name
        made.output[index] = self.versions[name, HALF] = new
        if pinned:
            self._cast(new, name, FLOAT)
            self.versions[name, FLOAT] = name

    def _version(self, name: str, kind: int) -> str:
        """The tensor `name` in the element type `kind`, by a Cast where it is not there yet."""
        known = self.versions.get((name, kind))
        if known is not None:
            return known
        if kind == self.homes.get(name, FLOAT):
            return name
        new = free_name(f"{name}_{'half' if kind == HALF else 'float'}", self.taken)
        self._cast(name, new, kind)
        self.versions[name, kind] = new
        return new

    def _cast(self, source: str, made: str, kind: int) -> None:
        name = free_name(f"{made}_Cast", self.taken)
        self.nodes.append(helper.make_node("Cast", [source], [made], name=name, to=kind))


def _retype(node: NodeProto, floats: list[bool]) -> None:
    """Let an attribute that says what is made say float16, where a float32 was made."""
    if not any(floats):
        return
    for attribute in node.attribute:
        if node.op_type in ("Cast", "DequantizeLinear") and attribute.name in ("to", "output_dtype"):
            attribute.i = HALF
        if node.op_type == "ConstantOfShape" and attribute.name == "value":
            attribute.t.CopyFrom(numpy_helper.from_array(Stored(attribute.t).load().astype(np.float16)))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(
            helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16)))
        )


def _take_in_constants(graph: onnx.GraphProto) -> None:
    """Make the values of Constant nodes initializers, where they are floats."""
    kept = []
    for node in graph.node:
        values = {a.name: a for a in node.attribute} if node.op_type == "Constant" else {}
        if "value" in values and values["value"].t.data_type == FLOAT:
            tensor = graph.initializer.add()
            tensor.CopyFrom(values["value"].t)
            tensor.name = node.output[0]
        elif "value_float" in values or "value_floats" in values:
            single = values.get("value_float")
            array = np.asarray(single.f if single else values["value_floats"].floats, np.float32)
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def _names(graph: onnx.GraphProto) -> set[str]:
    """Every name in a graph, bodies included."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in nodes_in(graph):
        names.update((node.name, *node.input, *node.output))
    return names
