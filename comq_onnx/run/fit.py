"""Fit arrays to the inputs of a model: which axis is samples, whether shapes and types agree.

The rule, for an input of rank R and an array of rank r:

* ``r = R``: the leading axis is samples where the input's leading axis is the batch; any other array is the
  whole value of the input and serves every sample.
* ``r = R + 1``: the leading axis is samples, and each is a whole value of the input.
* ``r = R - 1``: one sample without its batch axis.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.run.session import TensorSpec, is_float
from comq_onnx.run.sources import Record

Role = Literal["rows", "each", "shared"]


@dataclass(frozen=True)
class BatchAxis:
    """Which inputs have the batch as their leading axis, and its size: None where it is dynamic."""

    size: int | None
    members: frozenset[str]
    """Inputs whose leading axis is samples."""
    joined: frozenset[str]
    """Those of them that may hold more than one sample: not fixed at 1 beside dynamic ones."""


@dataclass(frozen=True)
class Sample:
    """Feeds for one run, or for a part of a batch."""

    feeds: dict[str, np.ndarray]
    count: int
    """Entries along the batch axis."""
    groupable: bool
    """Whether it may be joined with others along the batch axis."""
    where: str


@dataclass(frozen=True)
class _Fitted:
    spec: TensorSpec
    array: np.ndarray
    role: Role
    where: str


def batch_axis(inputs: Sequence[TensorSpec]) -> BatchAxis:
    """The batch axis of a model: dynamic leading dimensions and ones, or else that of its first input."""
    leads = {spec.name: spec.shape[0] for spec in inputs if spec.shape}
    if not leads:
        return BatchAxis(None, frozenset(), frozenset())
    dynamic = frozenset(name for name, lead in leads.items() if lead is None)
    if dynamic:
        return BatchAxis(None, dynamic | {name for name, lead in leads.items() if lead == 1}, dynamic)
    size = next(iter(leads.values()))
    members = frozenset(name for name, lead in leads.items() if lead == size)
    return BatchAxis(size, members, members)


def samples_of(record: Record, inputs: Sequence[TensorSpec], batch: BatchAxis) -> Iterator[Sample]:
    """Cut a record into samples, checked and cast. ComqError naming file, input, expected and found."""
    fitted = [_fit(record, spec, batch) for spec in inputs]
    total = count_samples(record, fitted)
    whole = any(item.role == "each" for item in fitted)
    kept = {item.spec.name: _cast(item.array, item) for item in fitted if item.role == "shared"}
    for i in range(total):
        feeds = dict(kept)
        for item in fitted:
            if item.role != "shared":
                piece = item.array[i] if item.role == "each" else item.array[i : i + 1]
                feeds[item.spec.name] = _cast(piece, item, i)
        yield Sample(feeds, entries(feeds, batch), not whole, record.where)


def entries(feeds: dict[str, np.ndarray], batch: BatchAxis) -> int:
    """Entries along the batch axis; 1 where the inputs do not agree on one."""
    counts = {len(value) for name, value in feeds.items() if name in batch.joined and value.ndim}
    return counts.pop() if len(counts) == 1 else 1


def count_samples(record: Record, fitted: "Sequence[_Fitted]") -> int:
    """Samples in a record. Arrays that disagree are an error; none is one too."""
    counts = {item.spec.name: len(item.array) for item in fitted if item.role != "shared"}
    if not counts:
        return 1
    (first, total), *others = counts.items()
    for name, count in others:
        if count != total:
            raise ComqError(
                f"input '{first}' has {total} samples and input '{name}' has {count}",
                where=record.where,
                fix="give every input the same number of samples along its leading axis",
            )
    if total == 0:
        raise ComqError(f"input '{first}' has no samples", where=record.where, fix="give at least one")
    return total


def _fit(record: Record, spec: TensorSpec, batch: BatchAxis) -> _Fitted:
    array, where = record.arrays[spec.name], f"{record.where}, input '{spec.name}'"
    if spec.dtype == object:
        raise ComqError("it is no tensor, and only tensors can be fed", where=where)
    _check_dtype(array, spec, where)
    rank, member = len(spec.shape), spec.name in batch.members
    if rank == 0 and array.ndim > 1:
        # The runtime reports an undeclared rank as a scalar's: only the data can tell them apart.
        return _Fitted(spec, array, "rows", where)
    if array.ndim == rank + 1:
        role, found = "each", array.shape[1:]
    elif array.ndim == rank and member and not _serves_all(record, spec, array):
        role, found = "rows", (spec.shape[0], *array.shape[1:])
    elif array.ndim == rank:
        role, found = "shared", array.shape
    elif array.ndim == rank - 1 and member and spec.shape[0] in (None, 1):
        array = array[None]
        role, found = "rows", array.shape
    else:
        raise _misfit(array, spec, where)
    if any(want is not None and want != have for want, have in zip(spec.shape, found, strict=True)):
        raise _misfit(array, spec, where)
    return _Fitted(spec, array, role, where)


def _serves_all(record: Record, spec: TensorSpec, array: np.ndarray) -> bool:
    """A value of fixed leading 1 beside inputs that hold several samples is meant for all of them."""
    return spec.shape[0] == 1 == len(array) and any(
        other.ndim and len(other) > 1 for name, other in record.arrays.items() if name != spec.name
    )


def _misfit(array: np.ndarray, spec: TensorSpec, where: str) -> ComqError:
    fix = "give an array of samples of that shape"
    tail = [dim for dim in spec.shape[1:] if dim is not None]
    if len(spec.shape) == array.ndim == 4 and array.shape[3] == spec.shape[1] and len(tail) > 0:
        fix = "transpose it: the model wants channels before height and width"
    elif len(spec.shape) == array.ndim == 4 and array.shape[1] == spec.shape[3]:
        fix = "transpose it: the model wants channels after height and width"
    return ComqError(
        f"expected {spec.dtype} {_shape(spec.shape)}, found {array.dtype} {_shape(array.shape)}",
        where=where,
        fix=fix,
    )


def _check_dtype(array: np.ndarray, spec: TensorSpec, where: str) -> None:
    """Floats go to floats, integers to integers that hold their values, booleans anywhere; nothing else."""
    have, want = _kind(array.dtype), _kind(spec.dtype)
    if have == want or (have == "bool" and want in ("int", "float")):
        return
    fix = f"save it as {spec.dtype}"
    if have == "int" and want == "float":
        fix = f"preprocess it as the model was trained (scale, mean, layout) and save it as {spec.dtype}"
    raise ComqError(
        f"expected {spec.dtype} {_shape(spec.shape)}, found {array.dtype} {_shape(array.shape)}",
        where=where,
        fix=fix,
    )


def _kind(dtype: np.dtype) -> str:
    if is_float(dtype):
        return "float"
    return {"i": "int", "u": "int", "b": "bool", "U": "text", "S": "text"}.get(dtype.kind, dtype.name)


def _cast(array: np.ndarray, item: _Fitted, sample: int | None = None) -> np.ndarray:
    """The values in the input's type. ComqError for values that are not finite, or that it cannot hold."""
    where = item.where if sample is None else f"{item.where}, sample {sample}"
    want = item.spec.dtype
    kind = _kind(array.dtype)
    if kind == "float":
        if not np.isfinite(array).all():
            raise ComqError("the data hold NaN or infinity", where=where, fix="remove the sample")
        with np.errstate(over="ignore"):
            values = np.asarray(array, dtype=want, order="C")
        if values.dtype != array.dtype and not np.isfinite(values).all():
            raise ComqError(f"values are too large for {want}", where=where, fix="scale the data")
        return values
    if kind == "int" and want.kind in "iu" and array.size and not np.can_cast(array.dtype, want):
        low, high = int(array.min()), int(array.max())
        if low < np.iinfo(want).min or high > np.iinfo(want).max:
            raise ComqError(
                f"values from {low} to {high} do not fit in {want}", where=where, fix="check the data"
            )
    return np.asarray(array, dtype=want, order="C")


def _shape(dims: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
