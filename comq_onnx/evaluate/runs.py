"""A written file, run in onnxruntime at each setting that users meet."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from comq_onnx.evaluate.agreement import Outputs
from comq_onnx.evaluate.room import TOLD, Room
from comq_onnx.run.session import SessionOptions, open_session, outputs_on

ONE_MESSAGE = 1_900_000_000
"""Bytes above which onnxruntime cannot write its optimised graph as one message."""


@dataclass(frozen=True)
class Ran:
    """What onnxruntime made of a file."""

    plain: Outputs
    """Of the graph as it is written"""
    exact: Outputs
    """Optimised, with exact settings"""
    deployed: Outputs
    """With the settings that onnxruntime has by default"""
    optimized: onnx.ModelProto | None
    """The graph that was deployed; None where that would take too much memory"""


def run(
    source: onnx.ModelProto | Path,
    path: Path,
    batches: Sequence[Mapping[str, np.ndarray]],
    float_bias: bool,
    room: Room,
) -> Ran:
    """Run `source`, a form of the file at `path`, at each setting. ComqError where it does not run.

    With `float_bias`, biases compute as they are written: it is for files made for another runtime. Where
    there is no `room` for the whole, it is run part by part, and the optimised graph is not told.
    """
    options = SessionOptions(float_bias=float_bias)
    if not room.holds(bytes_at(path), TOLD):
        exact, deployed = (room.outputs(source, batches, replace(options, exact=e)) for e in (True, False))
        plain = room.outputs(source, batches, SessionOptions(optimize=False))
        return Ran(plain, exact, deployed, None)
    with tempfile.TemporaryDirectory(prefix="comq-") as folder:
        into = Path(folder) / "optimized.onnx" if bytes_at(path) < ONE_MESSAGE else None
        session = open_session(source, replace(options, exact=False, optimized_path=into))
        deployed, optimized = outputs_on(session, batches), _graph_of(into) if into else None
    plain = room.outputs(source, batches, SessionOptions(optimize=False))
    exact = outputs_on(open_session(source, options), batches)
    return Ran(plain, exact, deployed, optimized)


def bytes_at(path: Path) -> int:
    """Bytes of a model and its external data beside it."""
    return sum(f.stat().st_size for f in (path, path.with_name(f"{path.name}.data")) if f.exists())


def _graph_of(path: Path) -> onnx.ModelProto:
    """What the runtime wrote; tensors it left in the original's data file stay there."""
    return onnx.load(path, load_external_data=False)
