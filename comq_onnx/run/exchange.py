"""Arrays handed to a program in another process, and its answers: raw files and JSON in a temporary folder.

A runtime that is fed a file it was never tested with may kill its process (a division by zero inside
OpenVINO is a SIGFPE), so no runtime but onnxruntime is ever loaded into ours.

The folder holds ``request.json``, ``answer.json`` and a file of bytes in C order for each array. An array is
written in JSON as ``{"file": "x.bin", "dtype": "float32", "shape": [2, 3]}``.
"""

import json
import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError

from comq_onnx.errors import ComqError
from comq_onnx.graph.external import external_file, is_external, tensors_of
from comq_onnx.run.session import TensorSpec, is_float
from comq_onnx.run.specs import input_specs

TIMEOUT = 600.0
"""Seconds after which a runtime is taken to hang"""
REQUEST, ANSWER = "request.json", "answer.json"

Feeds = Mapping[str, np.ndarray]
Outputs = list[dict[str, np.ndarray]]
"""Arrays by name, for each batch"""


@dataclass(frozen=True)
class Header:
    """What a file says about itself before any runtime has seen it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    external: tuple[str, ...]
    """Files of external data, as the model names them"""


@dataclass(frozen=True)
class Reply:
    """What a program left behind."""

    answer: dict[str, Any]
    problem: str
    """How it ended too early, as a clause; empty where it ended well"""


def read_header(path: Path) -> Header:
    """Inputs, outputs and data files of the model at `path`. ComqError where it is none."""
    if not path.is_file():
        raise ComqError("the file does not exist", where=str(path), fix="check the path")
    try:
        proto = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ComqError("the file is not an ONNX model", where=str(path)) from error
    names = {
        external_file(tensor, path.parent)[0].relative_to(path.parent).as_posix(): None
        for tensor in tensors_of(proto.graph)
        if is_external(tensor)
    }
    return Header(input_specs(proto), tuple(output.name for output in proto.graph.output), tuple(names))


def fitted(header: Header, feeds: Feeds, where: str) -> dict[str, np.ndarray]:
    """The feeds the model has inputs for, floating ones in the input's own floating type.

    ComqError where one is missing or holds strings.
    """
    made = {}
    for spec in header.inputs:
        if spec.name not in feeds:
            raise ComqError(f"no value is fed to '{spec.name}'", where=where)
        value = np.asarray(feeds[spec.name])
        if is_float(value.dtype) and is_float(spec.dtype):
            value = value.astype(spec.dtype)
        if value.dtype.kind in "USO":
            raise ComqError(
                f"'{spec.name}' takes strings, which are not handed to other runtimes", where=where
            )
        made[spec.name] = value
    return made


def write_arrays(folder: Path, batches: Sequence[Feeds]) -> list[dict[str, dict[str, Any]]]:
    """Write each array to a file of its own in `folder`; the records that go into the request."""
    records = []
    for i, batch in enumerate(batches):
        record = {}
        for j, (name, value) in enumerate(batch.items()):
            file = f"feed-{i}-{j}.bin"
            (folder / file).write_bytes(np.ascontiguousarray(value).tobytes())
            record[name] = {"file": file, "dtype": value.dtype.name, "shape": list(value.shape)}
        records.append(record)
    return records


def read_arrays(folder: Path, records: Sequence[Mapping[str, Mapping[str, Any]]]) -> Outputs:
    """The arrays behind an answer's records. ComqError where a file does not hold what its shape needs."""
    return [{name: _read(folder, record) for name, record in batch.items()} for batch in records]


def converse(
    command: Sequence[str], folder: Path, request: Mapping[str, Any], timeout: float = TIMEOUT
) -> Reply:
    """Write the request, run ``command folder`` and read the answer; whatever it does, this process lives.

    `timeout` is in seconds. ComqError where the program cannot be started at all.
    """
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    try:
        done = subprocess.run(
            [*command, str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Reply(_answer(folder), f"it gave no answer within {timeout:g} s")
    except OSError as error:
        raise ComqError(f"it cannot be started ({error.strerror})", where=command[0]) from None
    return Reply(_answer(folder), _ended(done.returncode, done.stderr))


def _ended(code: int, said: str) -> str:
    if code == 0:
        return ""
    if code < 0 and os.name == "posix":
        known = {number.value: number.name for number in signal.Signals}
        return f"its process was killed by {known.get(-code, f'signal {-code}')}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"its process ended with code {code}" + (f" ({lines[-1][:200]})" if lines else "")


def _answer(folder: Path) -> dict[str, Any]:
    file = folder / ANSWER
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _read(folder: Path, record: Mapping[str, Any]) -> np.ndarray:
    bfloat = record["dtype"] == "bfloat16"
    dtype = np.dtype(ml_dtypes.bfloat16) if bfloat else np.dtype(record["dtype"])
    data, shape = (folder / record["file"]).read_bytes(), tuple(record["shape"])
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ComqError(f"an output of shape {shape} came back with {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)
