"""A file as rules look at it: nodes with their scopes, constants, and shapes where they can be known."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx.defs
from onnx import numpy_helper

from comq_onnx.errors import ComqError
from comq_onnx.graph.external import is_external, read_external
from comq_onnx.graph.inferred import followed
from comq_onnx.graph.inline import inline_functions
from comq_onnx.graph.opset import without_weights
from comq_onnx.graph.scopes import Scope, scopes
from comq_onnx.graph.tensors import stored_bytes

DEFAULT_DOMAINS = ("", "ai.onnx")
MOVING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that neither compute with their first input nor drop any of it."""
_MOST_HOPS = 32
_NEWEST = 1000
"""An opset above all there are, within what the ONNX library takes for a number."""


class View:
    """An indexed `ModelProto`. Read, never changed.

    `scopes` are those of the graph with its model-local functions inlined, where they can be; `folder` is
    where the file lies, and without it constants in external files have no values. Nodes that lack
    inputs or outputs (`is_whole`) are not among the producers and readers of scopes.
    """

    def __init__(self, proto: onnx.ModelProto, folder: Path | None = None) -> None:
        self.proto = proto
        self.folder = folder
        self._flat = _inlined(proto)
        self.scopes = tuple(scopes(self._flat.graph))
        for scope in self.scopes:
            self._leave_out_parts(scope)

    @property
    def opset(self) -> int:
        """Version of the default domain; 0 where the file does not import it."""
        return next((o.version for o in self.proto.opset_import if o.domain in DEFAULT_DOMAINS), 0)

    def schema(self, op: str, domain: str = "") -> onnx.defs.OpSchema | None:
        """What ONNX says of an operator at the file's opset; None where it says nothing."""
        standard = domain in DEFAULT_DOMAINS
        version = next((o.version for o in self.proto.opset_import if o.domain == domain), 1)
        version = self.opset if standard else version
        try:
            return onnx.defs.get_schema(op, min(max(version, 1), _NEWEST), "" if standard else domain)
        except onnx.defs.SchemaError:
            return None

    def is_whole(self, node: onnx.NodeProto) -> bool:
        """Whether a node has the inputs and outputs that its operator must have. One that has not is no ONNX.

        Operators that ONNX does not know must have what those of the same name in the default domain have.
        """
        schema = self._schemas.get((node.domain, node.op_type)) or self._schemas.get(("", node.op_type))
        if schema is None:
            return len(node.output) > 0
        single = onnx.defs.OpSchema.FormalParameterOption.Single
        left_out = any(
            not name and formal.option == single
            for name, formal in zip(node.input, schema.inputs, strict=False)  # the last may stand for many
        )
        enough = len(node.input) >= schema.min_input and len(node.output) >= max(schema.min_output, 1)
        return enough and not left_out

    def _leave_out_parts(self, scope: Scope) -> None:
        for name in [name for name, node in scope.producers.items() if not self.is_whole(node)]:
            del scope.producers[name]
        for readers in scope.readers.values():
            readers[:] = filter(self.is_whole, readers)

    def nodes(self, *ops: str) -> Iterator[tuple[onnx.NodeProto, Scope]]:
        """Whole nodes of the default domain of one of these operators; where none is named, all nodes."""
        for scope in self.scopes:
            for node in scope.graph.node:
                known = node.op_type in ops and node.domain in DEFAULT_DOMAINS
                if not ops or (known and self.is_whole(node)):
                    yield node, scope

    def constant(self, name: str, scope: Scope) -> onnx.TensorProto | None:
        """The constant called `name`: an initializer, or the value of a Constant node."""
        if (tensor := scope.tensor(name)) is not None:
            return tensor
        node = scope.producer(name)
        if node is None or node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS:
            return None
        return next((tensor for a in node.attribute if (tensor := _tensor_of(a)) is not None), None)

    def values(self, tensor: onnx.TensorProto) -> np.ndarray | None:
        """The values of a constant; None where they are absent, damaged, no numbers or of an unknown type."""
        try:
            if is_external(tensor):
                inline = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
                inline.raw_data = read_external(tensor, self.folder, stored_bytes(tensor))
                tensor = inline
            array = numpy_helper.to_array(tensor)
        except (ComqError, ValueError, TypeError, KeyError):
            return None
        return None if array.dtype.kind in "cOSU" else array

    def numbers(self, tensor: onnx.TensorProto | None) -> np.ndarray | None:
        """`values` in float64."""
        values = None if tensor is None else self.values(tensor)
        return None if values is None else values.astype(np.float64)

    def value(self, name: str, scope: Scope) -> np.ndarray | None:
        """The values of a constant called `name`, looked for through operators that only move or cast them.

        None where it is none or they cannot be read. Its shape may be another: see `shape`.
        """
        for _ in range(_MOST_HOPS):
            if (tensor := self.constant(name, scope)) is not None:
                return self.values(tensor)
            node = scope.producer(name)
            if node is None or node.op_type not in MOVING or node.domain not in DEFAULT_DOMAINS:
                return None
            name = node.input[0] if node.input else ""
        return None

    def is_constant(self, name: str, scope: Scope) -> bool:
        """Whether `name` is computed from constants alone."""
        here: Scope | None = scope
        while here is not None:
            if name in self._constants[id(here)]:
                return True
            here = None if name in here.producers else here.outer
        return False

    def readers(self, name: str, scope: Scope) -> Iterator[tuple[onnx.NodeProto, Scope]]:
        """Nodes that read `name` of `scope`, those in graphs inside it too."""
        for inner in self.scopes:
            if name in inner.readers and _is_within(inner, scope):
                yield from ((node, inner) for node in inner.readers[name])

    @cached_property
    def _schemas(self) -> dict[tuple[str, str], onnx.defs.OpSchema | None]:
        """By domain and operator, for every one in the file, and for its namesake in the default domain."""
        kinds = {(node.domain, node.op_type) for scope in self.scopes for node in scope.graph.node}
        kinds |= {("", op) for _, op in kinds}
        return {(domain, op): self.schema(op, domain) for domain, op in kinds}

    @cached_property
    def _constants(self) -> dict[int, set[str]]:
        """By the id of a scope, the names in it that are computed from constants alone."""
        found: dict[int, set[str]] = {}
        for scope in self.scopes:
            fed = {info.name for info in scope.graph.input}
            names = found[id(scope)] = set(scope.tensors)
            names.update(sparse.values.name for sparse in scope.graph.sparse_initializer)
            outer = found[id(scope.outer)] if scope.outer else set()
            names |= outer - fed - set(scope.producers)
            for node in scope.graph.node:
                inputs = [name for name in node.input if name]
                has_body = any(a.HasField("g") for a in node.attribute)  # which reads what is not listed here
                known = bool(inputs) and not has_body and all(name in names for name in inputs)
                if known or node.op_type == "Constant":
                    names.update(node.output)
        return found

    @cached_property
    def _infos(self) -> dict[str, onnx.TypeProto.Tensor]:
        skeleton = without_weights(self._flat)
        skeleton.graph.value_info.extend(self._flat.graph.value_info)
        for scope in tuple(scopes(skeleton.graph)):
            nodes = scope.graph.node
            for place in [i for i, node in enumerate(nodes) if not self.is_whole(node)][::-1]:
                del nodes[place]  # the ONNX library reads inputs that are not there
        return {
            info.name: info.type.tensor_type
            for scope in scopes(followed(skeleton).graph)
            for info in (*scope.graph.input, *scope.graph.output, *scope.graph.value_info)
        }

    def element_type(self, name: str, scope: Scope) -> int:
        """`TensorProto` element type of a tensor; 0 where it is not known."""
        if (tensor := self.constant(name, scope)) is not None:
            return tensor.data_type
        return self._infos[name].elem_type if name in self._infos else 0

    def shape(self, name: str, scope: Scope) -> tuple[int | None, ...] | None:
        """Shape of a tensor, None for an axis that is not known; None where the rank is not."""
        if (tensor := self.constant(name, scope)) is not None:
            return tuple(tensor.dims)
        info = self._infos.get(name)
        if info is None or not info.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in info.shape.dim)


def named(node: onnx.NodeProto) -> str:
    """What to call a node: its name, or what it makes where it has none."""
    return node.name or (node.output[0] if node.output else node.op_type)


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    try:
        return inline_functions(proto)
    except ComqError:
        return proto  # functions that cannot be inlined stay as operators that nothing is known of


def _is_within(inner: Scope, outer: Scope) -> bool:
    here: Scope | None = inner
    while here is not None and here is not outer:
        here = here.outer
    return here is outer


def _tensor_of(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    """What an attribute of a Constant node says its value is."""
    if attribute.name == "value":
        return attribute.t
    if attribute.name in ("value_float", "value_floats"):
        values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return numpy_helper.from_array(np.array(values, np.float32))
    if attribute.name in ("value_int", "value_ints"):
        values = attribute.i if attribute.name == "value_int" else list(attribute.ints)
        return numpy_helper.from_array(np.array(values, np.int64))
    return None
