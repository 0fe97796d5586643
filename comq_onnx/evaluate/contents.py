"""What a file holds, told without running it: interface, operators, bytes, weights."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from comq_onnx.evaluate.room import model_bytes
from comq_onnx.graph.io import read_message
from comq_onnx.graph.scopes import Scope
from comq_onnx.graph.tensors import stored_bytes
from comq_onnx.targets.view import View

UNREAD = "(nothing)"
"""In place of an operator: constants that no node reads"""


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    dtype: str
    """``float32``; ``sequence`` and the like where it is no tensor"""
    shape: tuple[int | str | None, ...] | None
    """A size, the name of one, or None; None as a whole where not even the rank is said"""


@dataclass(frozen=True)
class OpCount:
    """One type of operator."""

    op: str
    """With its domain, where that is not the default one"""
    nodes: int
    """Subgraphs and model-local functions included"""
    bytes: int
    """Of the constants whose first reader is of this type"""


@dataclass(frozen=True)
class Offer:
    """What a target would do with a weight at one width."""

    grid: str
    """``int4 b128``; empty where the weight stays float"""
    form: str
    """As `targets.target.Written` has it; empty where the weight stays float"""
    why: str = ""
    """Why it stays, or why grid or form are not the usual ones"""


@dataclass(frozen=True)
class Weight:
    """A weight, and what becomes of it."""

    layer: str
    """The node that reads it, by the name that ``--rule`` and ``--keep-float`` know"""
    op: str
    weight: str
    shape: tuple[int, ...]
    dtype: str
    """Empty where it is not known"""
    bytes: int
    reason: str
    """Why nothing can quantize it; empty where something can"""
    offers: Mapping[str, Mapping[str, Offer]] = field(default_factory=dict)
    """By target and by width: ``int8``, ``int4``, ``int3``, ``int2``, and ``activations`` for 8-bit ones"""


@dataclass(frozen=True)
class Contents:
    """All of it; `as_dict` is what ``--json`` prints."""

    model: str
    bytes: int
    """On disk, with its external data"""
    ir_version: int
    opsets: Mapping[str, int]
    """By domain; the default one is ``ai.onnx``"""
    producer: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: tuple[str, ...]
    """Keys"""
    functions: int
    """Model-local ones"""
    ops: tuple[OpCount, ...]
    """Most bytes first"""
    weights: tuple[Weight, ...]
    """In order of execution"""

    @property
    def constant_bytes(self) -> int:
        """Of all constants, each counted once."""
        return sum(line.bytes for line in self.ops)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"constant_bytes": self.constant_bytes}


def contents(model: str | Path | onnx.ModelProto, weights: tuple[Weight, ...] = ()) -> Contents:
    """What a model says of itself, and the `weights` that were found in it.

    ComqError where the file is missing, is no ONNX, or is damaged.
    """
    if isinstance(model, onnx.ModelProto):
        name, proto, source = "the model", model, model
    else:
        source = Path(model)
        name, proto = str(model), read_message(source)
    constants = {tensor.name for tensor in proto.graph.initializer}
    return Contents(
        model=name,
        bytes=model_bytes(source),
        ir_version=proto.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        producer=" ".join(filter(None, (proto.producer_name, proto.producer_version))),
        inputs=tuple(port(info) for info in proto.graph.input if info.name not in constants),
        outputs=tuple(port(info) for info in proto.graph.output),
        metadata=tuple(entry.key for entry in proto.metadata_props),
        functions=len(proto.functions),
        ops=count_ops(proto),
        weights=weights,
    )


def port(info: onnx.ValueInfoProto) -> Port:
    """Type and shape of an input or output, as the file declares them."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(info.name, kind.removesuffix("_type") if kind else "unknown", None)
    tensor = info.type.tensor_type
    dtype = dtype_name(tensor.elem_type)
    if not tensor.HasField("shape"):
        return Port(info.name, dtype, None)
    return Port(info.name, dtype, tuple(_size(dim) for dim in tensor.shape.dim))


def dtype_name(kind: int) -> str:
    """``float32`` for ``FLOAT``, and the like."""
    if kind not in onnx.TensorProto.DataType.values():
        return "unknown"
    name = onnx.TensorProto.DataType.Name(kind).lower()  # pyright: ignore[reportArgumentType]
    return {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, name)


def count_ops(proto: onnx.ModelProto) -> tuple[OpCount, ...]:
    """Nodes and bytes of constants by type of operator, most bytes first.

    A constant counts for the first node that reads it. Nodes of functions count as often as they are called.
    """
    view = View(proto)
    nodes, sizes = Counter[str](), Counter[str]()
    seen = dict[int, onnx.TensorProto]()  # held on to, so that an id is not given twice
    for scope in view.scopes:
        for node in scope.graph.node:
            op = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            nodes[op] += 1
            for tensor in _read(view, node, scope):
                if id(tensor) not in seen:
                    seen[id(tensor)] = tensor
                    sizes[op] += stored_bytes(tensor)
    for scope in view.scopes:
        unread = sum(stored_bytes(t) for t in scope.graph.initializer if id(t) not in seen)
        if unread:
            sizes[UNREAD] += unread
    names = sorted(nodes.keys() | sizes.keys(), key=lambda op: (-sizes[op], -nodes[op], op))
    return tuple(OpCount(op, nodes[op], sizes[op]) for op in names)


def _read(view: View, node: onnx.NodeProto, scope: Scope) -> Iterator[onnx.TensorProto]:
    for name in filter(None, node.input):
        tensor = view.constant(name, scope)
        if tensor is not None:
            yield tensor


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):  # some exporters write -1 where a size is open
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None
