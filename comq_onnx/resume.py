"""Solved layers on disk, so that a run that was broken off goes on where it was.

A folder holds ``key.json``, which says what run its layers belong to, and a file for each solved layer and
each levelled residual Add: a SHA-256 of all that follows, then an ``.npz`` of the arrays and of a line of
JSON. Each file is written elsewhere, brought to the disk and renamed, so that it is whole or not there
whenever the process dies; one that is damaged all the same is not counted, and its layer is solved again.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from comq_onnx.errors import ComqError
from comq_onnx.graph.external import is_external, tensors_of
from comq_onnx.graph.spill import raw_bytes
from comq_onnx.grid import Grid
from comq_onnx.planning import Opened
from comq_onnx.recipe import Recipe
from comq_onnx.records import BlockBias, Quality, Solution
from comq_onnx.run.data import Calibration
from comq_onnx.version import __version__

KEY = "key.json"
ARRAYS = ("codes", "scale", "zero_point", "bias", "position_bias")
LAYER, BLOCK = ".layer", ".block"
META = "meta"
DIGEST = hashlib.sha256().digest_size

Entry = tuple[Solution, float | None, float]
"""A solution, the drift of the layer's inputs (None where none were seen), and the seconds it took."""


class Journal:
    """The solved layers of one run in a folder.

    Parameters
    ----------
    folder
        Where they are; created if absent.
    key
        What the run is made of, by part, as `key_of` gives it.

    ComqError where the folder holds the layers of another run, or cannot be written.
    """

    def __init__(self, folder: Path, key: Mapping[str, str]) -> None:
        self._folder = folder
        self._run = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._taken: set[str] = set()
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        other = _read_key(folder / KEY)
        if other is None:
            self._write(folder / KEY, json.dumps(dict(key), indent=1).encode())
        elif other != key:
            parts = [part for part in key if other.get(part) != key[part]]
            raise ComqError(
                f"it holds layers of another run: not the same {', '.join(parts) or 'parts'}",
                where=f"--resume {folder}",
                fix="name another folder, or delete this one",
            )

    def get(self, name: str) -> Entry | None:
        """What is known of a layer; None where it was not solved, or its file is damaged."""
        found = self._entry(name)
        if found:
            self._taken.add(name)
        return found

    def solution(self, name: str) -> Solution | None:
        """What was put of a layer in this run, or taken from an earlier one; None as in `get`."""
        found = self._entry(name)
        return found[0] if found else None

    def _entry(self, name: str) -> Entry | None:
        found = self._read(name, LAYER)
        if found is None:
            return None
        meta, arrays = found
        optional = {key: arrays.get(key) for key in ARRAYS[2:]}
        kinds = {"grid": Grid(**meta["grid"]), "quality": Quality(**meta["quality"])}
        solution = Solution(
            codes=arrays["codes"], scale=arrays["scale"], note=meta["note"], **optional, **kinds
        )
        return solution, meta["drift"], meta["seconds"]

    def put(self, name: str, solution: Solution, drift: float | None, seconds: float) -> None:
        """Keep a layer. When this returns it survives the process. ComqError where the disk is full."""
        meta = {
            "grid": asdict(solution.grid),
            "quality": asdict(solution.quality),
            "note": solution.note,
            "drift": drift,
            "seconds": seconds,
        }
        given = {key: getattr(solution, key) for key in ARRAYS}
        self._keep(name, LAYER, meta, {key: value for key, value in given.items() if value is not None})

    def get_block(self, node: str) -> tuple[BlockBias | None] | None:
        """What is added behind a residual Add, in a tuple; None where that was not measured."""
        found = self._read(node, BLOCK)
        if found is None:
            return None
        meta, arrays = found
        return (BlockBias(node, arrays["values"], meta["dtype"]) if arrays else None,)

    def put_block(self, node: str, bias: BlockBias | None) -> None:
        """Keep what is added behind a residual Add, or that nothing is. ComqError where the disk is full."""
        arrays = {} if bias is None else {"values": bias.values}
        self._keep(node, BLOCK, {"dtype": bias and bias.dtype}, arrays)

    def clear(self) -> None:
        """Forget all layers: they are to be solved in another way."""
        for kind in (LAYER, BLOCK):
            for path in self._folder.glob(f"*{kind}"):
                path.unlink()
        self._taken.clear()

    def note(self, layers: int) -> tuple[str, ...]:
        """What the user is told of `layers` layers, some of which were not solved anew."""
        if not self._taken:
            return ()
        return (f"{len(self._taken)} of {layers} layers were taken from --resume {self._folder}",)

    def _path(self, name: str, kind: str) -> Path:
        # Names of nodes hold slashes, and may be longer than a file's.
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}{kind}"

    def _read(self, name: str, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """What a file says, and its arrays; None where it is not there, damaged, or of another run."""
        try:
            found = self._path(name, kind).read_bytes()
        except OSError:
            return None
        digest, packed = found[:DIGEST], found[DIGEST:]
        if hashlib.sha256(packed).digest() != digest:
            return None
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(arrays.pop(META).tobytes())
        return (meta, arrays) if (meta["run"], meta["name"]) == (self._run, name) else None

    def _keep(self, name: str, kind: str, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        text = json.dumps({"run": self._run, "name": name, **meta})
        packed = io.BytesIO()
        np.savez(packed, **{**arrays, META: np.frombuffer(text.encode(), np.uint8)})
        values = packed.getvalue()
        self._write(self._path(name, kind), hashlib.sha256(values).digest() + values)

    def _write(self, path: Path, values: bytes) -> None:
        """All of `values` under this name, or what was there before."""
        draft = path.with_name(path.name + ".part")
        try:
            with draft.open("wb") as file:
                file.write(values)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        finally:
            draft.unlink(missing_ok=True)


def open_journal(folder: Path, opened: Opened, recipe: Recipe) -> Journal:
    """The journal of this run. ComqError where the folder holds another one's, or cannot be written."""
    return Journal(folder, key_of(opened.plan.prepared, opened.calibration, recipe))


def check_folder(folder: Path) -> Path:
    """Find out before the work that nothing can be kept in `folder`, and change nothing."""
    if folder.exists() and not folder.is_dir():
        raise ComqError("it is a file", where=f"--resume {folder}", fix="name a folder")
    if not folder.parent.is_dir():
        raise ComqError(
            "the folder it is in does not exist", where=f"--resume {folder}", fix="create it first"
        )
    try:
        with tempfile.TemporaryFile(dir=folder if folder.is_dir() else folder.parent):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def key_of(model: ModelProto, calibration: Calibration, recipe: Recipe) -> dict[str, str]:
    """All that decides the codes of a run, by part: SHA-256 in hexadecimal, and the version.

    The number of threads is not among it: any gives the same file.
    """
    return {
        "model": _digest(_model_bytes(model)),
        "recipe": _digest(iter([recipe.as_json().encode()])),
        "calibration data": _digest(_batch_bytes(calibration)),
        "version of comq-onnx": __version__,
    }


def _digest(chunks: Iterator[bytes]) -> str:
    total = hashlib.sha256()
    for chunk in chunks:
        # The length keeps two neighbours from passing for two others.
        total.update(len(chunk).to_bytes(8, "little"))
        total.update(chunk)
    return total.hexdigest()


def _model_bytes(model: ModelProto) -> Iterator[bytes]:
    """The model piece by piece, since one of more than 2 GB is no single message; weights by value."""
    for descriptor, value in model.ListFields():
        if descriptor.name == "graph":
            continue
        yield descriptor.name.encode()
        for item in value if hasattr(value, "add") or hasattr(value, "append") else (value,):
            yield _plain(item)
    graph = model.graph
    yield graph.name.encode()
    for message in (*graph.node, *graph.input, *graph.output, *graph.sparse_initializer):
        yield message.SerializeToString(deterministic=True)
    for tensor in tensors_of(graph):
        yield json.dumps([tensor.name, tensor.data_type, list(tensor.dims)]).encode()
        if is_external(tensor) or tensor.HasField("raw_data"):
            yield raw_bytes(tensor)
        else:
            yield tensor.SerializeToString(deterministic=True)


def _plain(value: object) -> bytes:
    serialize = getattr(value, "SerializeToString", None)
    return serialize(deterministic=True) if serialize else repr(value).encode()


def _batch_bytes(calibration: Calibration) -> Iterator[bytes]:
    for batch in calibration.batches():
        for name in sorted(batch):
            value = np.ascontiguousarray(batch[name])
            yield json.dumps([name, value.dtype.name, list(value.shape)]).encode()
            text = value.dtype.kind not in "biufcV"
            yield repr(value.tolist()).encode() if text else value.reshape(-1).view(np.uint8).tobytes()


def _read_key(path: Path) -> dict[str, str] | None:
    """The key in a folder; None where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _unwritable(folder: Path, error: OSError) -> ComqError:
    return ComqError(
        f"solved layers cannot be kept there ({error.strerror})",
        where=f"--resume {folder}",
        fix="name a folder that can be written to, on a disk with space",
    )
