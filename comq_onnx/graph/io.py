"""Models in and out of memory: load, to_proto, save.

A `Model` is a GraphSurgeon graph and what GraphSurgeon would lose. Weights stay where they are, in the loaded
message or in external files, until somebody reads one with `tensors.values_of`.
"""

import os
import tempfile
from collections import ChainMap
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import ModelProto, defs, helper

from comq_onnx.errors import ComqError
from comq_onnx.graph.external import check_external, is_external, read_external, tensors_of
from comq_onnx.graph.inline import inline_functions
from comq_onnx.graph.opset import nodes_in
from comq_onnx.graph.outside import Outside
from comq_onnx.graph.reader import Reader, Sources
from comq_onnx.graph.sound import check_names, check_sound
from comq_onnx.graph.spill import INLINE_BYTES, bytes_to_write, spill
from comq_onnx.graph.tensors import Stored, Tensor, bytes_of, float_tensor, quantized_tensor, stored_bytes
from comq_onnx.graph.writer import Writer, homes_of

__all__ = [
    "Model",
    "check_output",
    "float_tensor",
    "load",
    "move_into_place",
    "quantized_tensor",
    "save",
    "to_proto",
]

MIN_OPSET, MAX_OPSET = 1, defs.onnx_opset_version()
MIN_IR = 4  # from IR 4 on an initializer need not be listed as an input


@dataclass
class Model:
    """A graph in memory, and what its file held beside it.

    `shell` is the model message without graph and functions: metadata, producer, documentation, imports.
    `sources` remembers the messages of nodes and values (`graph.reader`); `index` is `graph.locate`'s.
    `outside` takes large constants that are made anew, where memory is short.
    """

    graph: gs.Graph
    shell: ModelProto
    path: Path | None = None
    sources: Sources = field(default_factory=Sources)
    index: dict[str, tuple[gs.Node, gs.Graph]] = field(default_factory=dict)
    outside: Outside | None = None

    @property
    def opset(self) -> int:
        """Version of the default operator domain."""
        return self.graph.opset


def load(source: str | Path | ModelProto) -> Model:
    """Read a model; weights in external files are checked for presence but not read.

    Model-local functions are inlined. Initializers that are listed as inputs become plain constants.

    Raises
    ------
    ComqError
        The file is missing, is not ONNX, is damaged, lacks its external data, or has an unknown opset.
    """
    path = None if isinstance(source, ModelProto) else Path(source)
    proto = source if isinstance(source, ModelProto) else read_message(Path(source))
    check_sound(proto)
    return from_proto(proto, path)


def from_proto(proto: ModelProto, path: Path | None, outer: ChainMap[str, Tensor] | None = None) -> Model:
    """The model of a message read from `path`; `outer` holds constants that the message does not define."""
    where = str(path) if path else "the model"
    opset = default_opset(proto, where)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ComqError(
            f"opset {opset} is not supported",
            where=where,
            fix=f"export it with an opset from {MIN_OPSET} to {MAX_OPSET}",
        )
    if proto.functions:
        proto = inline_functions(proto)
        check_sound(proto)
    for tensor in tensors_of(proto.graph):
        if is_external(tensor):
            check_external(tensor, path, stored_bytes(tensor))
    reader = Reader(opset, path.parent if path else None)
    graph = reader.read(proto.graph, ChainMap() if outer is None else outer)
    return Model(graph, _shell(proto), path, reader.sources)


def to_proto(model: Model) -> ModelProto:
    """The model as a message of its own; its IR version is the smallest its opsets need, and at least 4.

    External weights are read in as long as the whole stays below what one message can hold; a larger model,
    and one with an `outside`, refers to its files by their absolute path, which `save` understands.
    """
    outside = model.outside
    embed = outside is None and stored_in(model)[0] < INLINE_BYTES
    return write_model(model, Writer(model.sources, embed, outside=outside))


def stored_in(model: Model) -> tuple[int, int]:
    """Bytes of all constants, and of those in external files."""
    constants = homes_of(model.graph, {}, model.sources).values()
    apart = (c for c in constants if isinstance(c._values, Stored) and is_external(c._values.tensor))
    return sum(map(bytes_of, constants)), sum(map(bytes_of, apart))


def write_model(model: Model, writer: Writer) -> ModelProto:
    """The message that `writer` makes of `model`."""
    proto = ModelProto()
    proto.CopyFrom(model.shell)
    writer.write(model.graph, proto.graph)
    _import_domains(model, proto)
    smallest = helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
    proto.ir_version = max(MIN_IR, smallest)
    return proto


def save(proto: ModelProto, path: Path, apart: bool = False, said: Path | None = None) -> list[Path]:
    """Write `proto` to `path`, and above 2 GB its weights to ``<name>.data`` beside it; the files written.

    With `apart`, weights go there whatever the size, so that only one of them is in memory at a time. Files
    are written elsewhere and then renamed: what was at `path` stays until the new file is whole. `said` is
    what errors call it.

    Raises
    ------
    ComqError
        The folder does not exist or cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ComqError("its folder does not exist", where=str(path), fix="create the folder first")
    if path.is_dir():
        raise ComqError("it is a folder", where=str(path), fix="name a file")
    try:
        with tempfile.TemporaryDirectory(prefix=".comq-", dir=path.parent) as scratch:
            return move_into_place(_write(proto, Path(scratch) / path.name, apart), path.parent)
    except OSError as error:
        raise ComqError(
            f"it cannot be written ({error.strerror})", where=str(said or path), fix="choose another output"
        ) from error


def move_into_place(files: list[Path], folder: Path) -> list[Path]:
    """Rename `files` into `folder` of the same file system, data before the model that refers to it."""
    moved = []
    for file in sorted(files, key=lambda f: f == files[0]):
        os.replace(file, folder / file.name)
        moved.append(folder / file.name)
    return sorted(moved, key=lambda f: f.name != files[0].name)


def default_opset(proto: ModelProto, where: str) -> int:
    """Version of the default domain that `proto` imports."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise ComqError("it names no ONNX opset", where=where, fix="export the model again")
    return max(versions)


def _write(proto: ModelProto, path: Path, apart: bool) -> list[Path]:
    external = any(is_external(tensor) for tensor in tensors_of(proto.graph))
    if apart or bytes_to_write(proto.graph) >= INLINE_BYTES:
        data = path.with_name(path.name + ".data")
        path.write_bytes(spill(proto, data).SerializeToString())
        return [path, data]
    if external:
        whole = ModelProto()
        whole.CopyFrom(proto)
        for tensor in tensors_of(whole.graph):
            if is_external(tensor):
                values = read_external(tensor, None, stored_bytes(tensor))
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = values
        proto = whole
    path.write_bytes(proto.SerializeToString())
    return [path]


def read_message(path: Path) -> ModelProto:
    """The message in a file as it is; external data is not looked for.

    Raises
    ------
    ComqError
        The file is missing, is not ONNX, or is damaged.
    """
    where = str(path)
    if not path.exists():
        raise ComqError("the file does not exist", where=where, fix="check the path")
    if path.is_dir():
        raise ComqError("it is a folder, not a file", where=where, fix="name the .onnx file in it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ComqError(
            f"the file cannot be read ({error.strerror})", where=where, fix="check its permissions"
        ) from error
    if not data:
        raise ComqError("the file is empty", where=where, fix="export the model again")
    foreign = "it is not an ONNX model"
    if data.startswith(b"version https://git-lfs"):
        raise ComqError(
            "it is a Git LFS pointer, not the model itself", where=where, fix="fetch it with `git lfs pull`"
        )
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        # A model message starts with its IR version: field 1, a varint.
        what = "the ONNX file is truncated or damaged" if data[0] == 0x08 else foreign
        raise ComqError(what, where=where, fix="export or copy the model again") from error
    if not proto.HasField("graph") or not proto.ir_version:
        what = "the ONNX file is truncated or damaged" if proto.ir_version else foreign
        raise ComqError(what, where=where, fix="export or copy the model again")
    check_names(proto)
    return proto


def _shell(proto: ModelProto) -> ModelProto:
    shell = ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name in ("graph", "functions"):
            continue
        if isinstance(value, int | str | bytes | float | bool):
            setattr(shell, descriptor.name, value)
        else:
            getattr(shell, descriptor.name).MergeFrom(value)
    return shell


def _import_domains(model: Model, proto: ModelProto) -> None:
    """Bring the opset imports of `proto` up to date with the graph's opset and the domains of its nodes."""
    imports = {entry.domain: entry.version for entry in model.shell.opset_import if entry.domain != "ai.onnx"}
    imports[""] = model.opset
    for node in nodes_in(proto.graph):
        imports.setdefault(node.domain, 1)
    proto.ClearField("opset_import")
    proto.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in imports.items())


def check_output(model: str | Path | ModelProto, output: Path) -> Path:
    """Find out before the work, not after it, that the output cannot be written."""
    source = None if isinstance(model, ModelProto) else Path(model)
    if source and source.exists() and output.exists() and output.samefile(source):
        raise ComqError("the output is the input", where=str(output), fix="give -o another name")
    if output.is_dir():
        raise ComqError("the output is a folder", where=str(output), fix="name a file in it")
    if not output.parent.is_dir():
        raise ComqError("the output's folder does not exist", where=str(output.parent), fix="create it first")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise ComqError(
            f"the output's folder cannot be written to ({error.strerror})",
            where=str(output.parent),
            fix="choose another folder for -o",
        ) from None
    return output
