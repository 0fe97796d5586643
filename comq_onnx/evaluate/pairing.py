"""Which inputs and outputs of two models belong together: those of one name, or the only ones left over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.graph.io import read_message
from comq_onnx.run.session import TensorSpec, is_float
from comq_onnx.run.specs import input_specs


@dataclass(frozen=True)
class Side:
    """One of two models, as it is given."""

    label: str
    """``A`` or ``B``"""
    name: str
    """Its path; ``the model`` where it came without one"""
    source: onnx.ModelProto | Path
    proto: onnx.ModelProto
    """Its message; weights in external files are not in it"""

    def __str__(self) -> str:
        return f"{self.label} ({self.name})"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return input_specs(self.proto)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(output.name for output in self.proto.graph.output)


@dataclass(frozen=True)
class Pairing:
    """What of A belongs to what of B."""

    inputs: Mapping[str, str]
    """Names of B's inputs, by what they are fed as"""
    outputs: Mapping[str, str]
    """Names of B's outputs, by A's"""
    specs: tuple[TensorSpec, ...]
    """All that must be fed, under A's names where both have it"""
    notes: tuple[str, ...]


def side(label: str, model: str | Path | onnx.ModelProto) -> Side:
    """ComqError where the file is missing, is no ONNX, or is damaged."""
    if isinstance(model, onnx.ModelProto):
        return Side(label, "the model", model, model)
    return Side(label, str(model), Path(model), read_message(Path(model)))


def pair(a: Side, b: Side) -> Pairing:
    """Match by name; where one is left over on each side, these two.

    ComqError where inputs cannot be matched or have shapes that exclude each other, or no output can be.
    """
    left, right = a.inputs, b.inputs
    inputs, said = _matched([spec.name for spec in left], [spec.name for spec in right], "input")
    others = [spec.name for spec in left if spec.name not in inputs]
    strange = [spec.name for spec in right if spec.name not in inputs.values()]
    if others and strange:
        raise ComqError(
            f"its inputs {_listed(strange)} are none of {a}, which has {_listed(others)}",
            where=str(b),
            fix="give both models the same input names",
        )
    outputs, more = _matched(a.outputs, b.outputs, "output")
    if not outputs:
        raise ComqError(
            f"none of its outputs, {_listed(b.outputs)}, is one of {a}, which has {_listed(a.outputs)}",
            where=str(b),
            fix="give both models the same output names",
        )
    said += more
    for here, names, matched in ((a, a.outputs, outputs), (b, b.outputs, outputs.values())):
        if alone := [name for name in names if name not in matched]:
            said.append(f"only {here.label} has the outputs {_listed(alone)}: they are not compared")
    return Pairing(inputs, outputs, _merged(a, b, inputs), tuple(said))


def renamed(feeds: Mapping[str, np.ndarray], inputs: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Feeds under the second model's names."""
    return {inputs.get(name, name): value for name, value in feeds.items()}


def _matched(left: Sequence[str], right: Sequence[str], kind: str) -> tuple[dict[str, str], list[str]]:
    """B's names by A's, and what to say of it."""
    found = {name: name for name in left if name in right}
    others, strange = [n for n in left if n not in found], [n for n in right if n not in found]
    if len(others) != 1 or len(strange) != 1:
        return found, []
    found[others[0]] = strange[0]
    return found, [f"A's {kind} '{others[0]}' is taken for B's '{strange[0]}', the only one left of each"]


def _merged(a: Side, b: Side, inputs: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """What both models take; an axis that is fixed in one is fixed."""
    theirs = {spec.name: spec for spec in b.inputs}
    merged = [_narrowed(spec, theirs.get(inputs.get(spec.name, "")), b) for spec in a.inputs]
    return (*merged, *(spec for name, spec in theirs.items() if name not in inputs.values()))


def _narrowed(spec: TensorSpec, other: TensorSpec | None, b: Side) -> TensorSpec:
    if other is None:
        return spec
    if not _same_kind(spec.dtype, other.dtype):
        raise ComqError(
            f"its input '{other.name}' is {other.dtype}, and that of A is {spec.dtype}",
            where=str(b),
            fix="compare models that take the same data",
        )
    clash = len(spec.shape) != len(other.shape) or any(
        None not in (mine, its) and mine != its for mine, its in zip(spec.shape, other.shape, strict=True)
    )
    if clash:
        raise ComqError(
            f"its input '{other.name}' has the shape {_shape(other)}, and that of A {_shape(spec)}",
            where=str(b),
            fix="compare models that take the same data",
        )
    dims = tuple(its if mine is None else mine for mine, its in zip(spec.shape, other.shape, strict=True))
    return TensorSpec(spec.name, spec.dtype, dims)


def _same_kind(mine: np.dtype, its: np.dtype) -> bool:
    """Whether one array serves both: floats are cast to each model's own type, nothing else is."""
    return mine == its or (is_float(mine) and is_float(its))


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in spec.shape) + "]"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
