"""Arrays as calibration data: files, folders, dicts, iterables and readers, all as records.

A record is what one file, or one item of an iterable, holds: arrays by input name. What the arrays mean
(which axis is samples, whether they fit) is decided in `run.fit`. Nothing here unpickles.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.run.npy import extract_npz, is_large, read_npy, read_npz
from comq_onnx.run.session import TensorSpec

SUFFIXES = (".npz", ".npy")
KINDS = (
    "a .npz, .npy or .pt file, a folder of pictures, .wav or .npz files, a text file with --tokenizer, "
    "module:callable, or in Python a dict of arrays, an iterable of dicts, a DataLoader or a reader"
)


@dataclass(frozen=True)
class Record:
    """Arrays by input name, and where they were found."""

    where: str
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """Records that can be read again and again, always the same."""

    description: str
    records: Callable[[], Iterator[Record]]
    notes: tuple[str, ...] = ()
    """What the user must be told of it, a sentence each"""


class Scratch:
    """A temporary folder that lives as long as this object and is removed with it, or at exit."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="comq-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def open_arrays(
    source: Any,
    inputs: Sequence[TensorSpec],
    enough: Callable[[Record], bool],
    item: Callable[[Any], Any] = lambda item: item,
) -> Source:
    """Make arrays in memory, an iterable or a reader readable more than once; `item` is done to each item.

    One-shot iterables and readers are written to a temporary folder, item by item, until `enough` says that
    an item was the last one needed. ComqError for an unknown source.
    """
    if isinstance(source, np.ndarray | Mapping):
        record = _record("calibration data", source, inputs)
        return Source("arrays in memory", lambda: iter([record]))
    if isinstance(source, list | tuple):
        items = [_record(f"calibration item {i}", item(one), inputs) for i, one in enumerate(source)]
        return Source(f"{len(items)} items in memory", lambda: iter(items))
    if hasattr(source, "get_next"):
        return _spill(map(item, _read_all(source)), inputs, enough, type(source).__name__)
    if isinstance(source, Iterable):
        return _spill(map(item, source), inputs, enough, type(source).__name__)
    raise ComqError(f"a {type(source).__name__} is no source of calibration data", fix=f"give {KINDS}")


def open_files(files: Sequence[Path], name: str, inputs: Sequence[TensorSpec]) -> Source:
    """Many .npz and .npy files, in this order."""
    return Source(f"{name} ({len(files)} files)", lambda: (_read(f, inputs) for f in files))


def open_file(path: Path, inputs: Sequence[TensorSpec]) -> Source:
    """One .npz or .npy file; a large one is unpacked to disk and memory-mapped."""
    if path.suffix == ".npz" and is_large(path):
        scratch = Scratch()
        record = _record(str(path), extract_npz(path, scratch.path), inputs)
        return Source(path.name, lambda keep=scratch: iter([record]))
    record = _read(path, inputs)
    return Source(path.name, lambda: iter([record]))


def _read(path: Path, inputs: Sequence[TensorSpec]) -> Record:
    return _record(str(path), read_npy(path) if path.suffix == ".npy" else read_npz(path), inputs)


def _record(where: str, item: Any, inputs: Sequence[TensorSpec]) -> Record:
    """Name the arrays of an item. A bare array, or the `arr_0` of `np.savez(x)`, is the only input's."""
    if not isinstance(item, Mapping):
        item = {_only_input(where, inputs): item}
    elif set(item) == {"arr_0"} and len(inputs) == 1:
        item = {inputs[0].name: item["arr_0"]}
    arrays = {str(name): _as_array(where, str(name), value) for name, value in item.items()}
    known = {spec.name for spec in inputs}
    listed = ", ".join(f"'{spec.name}'" for spec in inputs)
    unknown = sorted(set(arrays) - known)
    if unknown:
        raise ComqError(
            f"'{unknown[0]}' is no input of the model",
            where=where,
            fix=f"name the arrays after its inputs: {listed}",
        )
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing:
        raise ComqError(
            f"input '{missing[0]}' is missing", where=where, fix=f"give an array for each of {listed}"
        )
    return Record(where, arrays)


def _only_input(where: str, inputs: Sequence[TensorSpec]) -> str:
    if len(inputs) == 1:
        return inputs[0].name
    listed = ", ".join(f"'{spec.name}'" for spec in inputs)
    raise ComqError(
        f"one unnamed array cannot feed the model's {len(inputs)} inputs",
        where=where,
        fix=f"give named arrays (.npz or dict) for {listed}",
    )


def _as_array(where: str, name: str, value: Any) -> np.ndarray:
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ComqError(
            f"a {type(value).__name__} is no array",
            where=f"{where}, input '{name}'",
            fix="give a numeric array",
        ) from error
    if array.dtype.kind in "OV" and not _is_extension_float(array.dtype):
        raise ComqError(
            f"an array of {array.dtype} holds no plain numbers",
            where=f"{where}, input '{name}'",
            fix="give a numeric array with samples of equal shape, or one item for each sample",
        )
    return array


def _is_extension_float(dtype: np.dtype) -> bool:
    return dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _read_all(reader: Any) -> Iterator[Any]:
    """What a calibration reader gives until it is through (None, or an empty dict)."""
    while item := reader.get_next():
        yield item


def _spill(
    items: Iterable[Any], inputs: Sequence[TensorSpec], enough: Callable[[Record], bool], kind: str
) -> Source:
    scratch = Scratch()
    files: list[Path] = []
    for i, item in enumerate(items):
        record = _record(f"calibration item {i}", item, inputs)
        last = enough(record)
        path = scratch.path / f"{i}.npz"
        # A bfloat16 array would come back from disk as raw bytes.
        plain = {
            name: array.astype(np.float32) if _is_extension_float(array.dtype) else array
            for name, array in record.arrays.items()
        }
        members: Any = {f"in:{name}": array for name, array in plain.items()}
        np.savez(path, **members)
        files.append(path)
        if last:
            break

    def read(keep: Scratch = scratch) -> Iterator[Record]:
        for i, path in enumerate(files):
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name.removeprefix("in:"): archive[name] for name in archive.files}
            yield Record(f"calibration item {i}", arrays)

    return Source(f"{len(files)} items of a {kind}", read)
