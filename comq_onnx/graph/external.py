"""Tensors whose values lie in a file beside the model (ONNX external data)."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto

from comq_onnx.errors import ComqError


def is_external(tensor: TensorProto) -> bool:
    """Whether the values of `tensor` lie in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def external_file(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int | None]:
    """File, offset and length (None: to its end) of an external tensor.

    The location is relative to `folder`. An absolute one is accepted only where `folder` is None: that is
    how a model in memory refers to the files it was read from.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        raise ComqError(
            "its external data has no location", where=f"tensor {tensor.name!r}", fix="export it again"
        )
    length = entries.get("length")
    if folder is None:
        if not Path(location).is_absolute():
            raise ComqError(
                f"its values are in {location!r}, and the model's folder is not known",
                where=f"tensor {tensor.name!r}",
                fix="pass the path of the model instead of the loaded model",
            )
        path = Path(location)
    else:
        posix = PurePosixPath(location.replace("\\", "/"))
        if posix.is_absolute() or ".." in posix.parts:
            raise ComqError(
                f"its external data {location!r} lies outside the model's folder",
                where=f"tensor {tensor.name!r}",
                fix="keep the data file beside the model",
            )
        path = folder / posix
    return (
        path,
        _count(entries.get("offset") or "0", tensor),
        None if length is None else _count(length, tensor),
    )


def _count(text: str, tensor: TensorProto) -> int:
    """A number of bytes as a file has it."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ComqError(
            f"its external data has {text!r} where a number of bytes should be",
            where=f"tensor {tensor.name!r}",
            fix="export the model again",
        )
    return int(text)


def _beside(path: Path, model: Path) -> bool:
    """Whether a data file lies below the model's folder, or beside it, once the links of both are followed.

    The cache of a model hub keeps files elsewhere, and links to the model and to its data side by side.
    """
    real = path.resolve()
    return real.is_relative_to(model.parent.resolve()) or real.parent == model.resolve().parent


def check_external(tensor: TensorProto, model: Path | None, expected: int) -> None:
    """ComqError unless the data file of `tensor` lies beside the file `model` and holds `expected` bytes."""
    path, offset, length = external_file(tensor, model.parent if model else None)
    where = f"tensor {tensor.name!r}"
    try:
        found, inside = path.is_file(), model is None or _beside(path, model)
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that no file can have
        found, inside = False, True
    if not inside:
        raise ComqError(
            f"its external data file {str(path)!r} is a link that leads out of the model's folder",
            where=where,
            fix="keep the data file itself beside the model",
        )
    if not found:
        raise ComqError(
            f"its external data file {str(path)!r} does not exist",
            where=where,
            fix="copy the data file beside the model",
        )
    if length is not None and length != expected:
        raise ComqError(
            f"its external data has {length} bytes where its shape {list(tensor.dims)} needs {expected}",
            where=where,
            fix="export the model again",
        )
    if offset + expected > path.stat().st_size:
        raise ComqError(
            f"its external data file {str(path)!r} is too short", where=where, fix="copy the whole file"
        )


def read_external(tensor: TensorProto, folder: Path | None, size: int) -> bytes:
    """The `size` raw bytes of an external tensor."""
    path, offset, _ = external_file(tensor, folder)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            values = file.read(size)
    except OSError as error:
        raise ComqError(
            f"its external data file cannot be read ({error.strerror})",
            where=f"tensor {tensor.name!r}",
            fix="copy the data file beside the model",
        ) from error
    if len(values) != size:
        raise ComqError(
            f"its external data file {str(path)!r} is too short",
            where=f"tensor {tensor.name!r}",
            fix="copy the whole file",
        )
    return values


def point_to(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Make `tensor` refer to `length` bytes at `offset` of the file `location`; its own data is dropped."""
    for field in (
        "raw_data",
        "external_data",
        "float_data",
        "int32_data",
        "int64_data",
        "double_data",
        "uint64_data",
    ):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def name_absolutely(graph: onnx.GraphProto, model: Path, size: Callable[[TensorProto], int]) -> None:
    """Make external tensors of the graph of a file refer to their files by absolute paths, in place.

    `size` gives the bytes of a tensor. ComqError where a file lies outside the model's folder, or is none or
    short.
    """
    for tensor in tensors_of(graph):
        if is_external(tensor):
            check_external(tensor, model, size(tensor))
            path, offset, _ = external_file(tensor, model.parent)
            point_to(tensor, str(path.resolve()), offset, size(tensor))


def tensors_of(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every tensor stored in `graph`: initializers and attributes, those of subgraphs too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from tensors_of(attribute.g)
            for graph_ in attribute.graphs:
                yield from tensors_of(graph_)
