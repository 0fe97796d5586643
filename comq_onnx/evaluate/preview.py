"""What a model would be fed, and what looks wrong about it; nothing is quantized or run."""

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.vocabulary import vocabulary
from comq_onnx.preprocess import parse
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import open_calibration
from comq_onnx.run.feeds.metadata import told_by
from comq_onnx.run.feeds.picture_plan import picture_axes
from comq_onnx.run.feeds.text import NAMES, TextFile, load_tokenizer
from comq_onnx.run.fit import batch_axis
from comq_onnx.run.session import TensorSpec, is_float
from comq_onnx.run.specs import input_specs

Kind = Literal["picture", "sound", "ids", "other"]
KEPT = 24
"""Samples that are shown"""
LINES = 8
"""Lines of text that are shown"""
SHORTEST_SOUND = 400
RAW_PIXELS, TWICE_SCALED = 64.0, 0.02
"""Pixels beyond the first are not normalised; where none is beyond the second, they were divided twice."""
LOUD = 100.0
"""A sound beyond this is neither of -1 to 1 nor made to have the deviation 1"""


@dataclass
class InputView:
    """What one input is fed, over all samples."""

    spec: TensorSpec
    kind: Kind = "other"
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    zeros: int = 0
    axis: int | None = None
    """That of channels, in a batch"""
    sums: np.ndarray = field(default_factory=lambda: np.zeros((3, 1)))
    """By channel: how many values, their sum, the sum of their squares"""
    kept: list[np.ndarray] = field(default_factory=list)
    """The first samples, as fed, without the batch axis"""

    def add(self, batch: np.ndarray, per_sample: bool) -> None:
        """Count a batch in; `per_sample` says that its leading axis is samples."""
        if not self.shapes:
            self.kind, self.axis = _kind(self.spec, batch.shape)
        if not batch.size:
            return
        values = batch.astype(np.float64)
        self.shapes[batch.shape] += 1
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        self.count += values.size
        self.zeros += int((values == 0).sum())
        rows = values.reshape(1, -1)
        if self.axis is not None:
            rows = np.moveaxis(values, self.axis, 0).reshape(values.shape[self.axis], -1)
        per = np.stack([np.full(len(rows), rows.shape[1]), rows.sum(1), (rows * rows).sum(1)])
        self.sums = self.sums + per
        for sample in batch if per_sample else batch[None]:
            if len(self.kept) < KEPT:
                self.kept.append(np.array(sample))

    @property
    def channels(self) -> list[tuple[float, float]]:
        """Mean and deviation of each channel; of all values together where there are no channels."""
        count, total, squares = self.sums
        mean = total / np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean * mean, 0))
        return list(zip(mean, deviation, strict=True))


@dataclass(frozen=True)
class Preview:
    """What would be fed."""

    description: str
    samples: int
    inputs: tuple[InputView, ...]
    lines: tuple[str, ...]
    """The first lines of text, as the tokenizer reads them back"""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def preview(model: str | Path | onnx.ModelProto, data: Any, recipe: Recipe) -> Preview:
    """Read all the samples that a run would take, and look at them.

    ComqError where a run would end with one: NaN among the values, shapes that do not fit, broken files.
    """
    loaded = load(model)
    proto = to_proto(loaded)
    specs, ids = input_specs(proto), vocabulary(loaded)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    calibration = open_calibration(data, specs, recipe, ids, metadata)
    views, axis, seen = {spec.name: InputView(spec) for spec in specs}, batch_axis(specs), Counter[int]()
    for batch in calibration.batches():
        for name, values in batch.items():
            views[name].add(values, name in axis.members)
        per_sample = [values for name, values in batch.items() if name in axis.joined and values.ndim]
        for sample in zip(*per_sample, strict=False) if per_sample else [tuple(batch.values())]:
            seen[_checksum(sample)] += 1
    inputs = tuple(views.values())
    warnings = [
        *_repeated(seen),
        *(text for view in inputs for text in warnings_of(view, ids, _raw(view.spec, recipe, metadata))),
    ]
    lines = _read_back(inputs, data) if isinstance(data, TextFile) else ()
    return Preview(
        calibration.description, calibration.samples, inputs, lines, tuple(warnings), calibration.notes
    )


def warnings_of(view: InputView, ids: Mapping[str, int], raw: bool) -> list[str]:
    """What looks wrong in one input; `raw` says that its pixels are meant to be of 0 to 255."""
    name, said = f"input '{view.spec.name}'", []
    low, high = view.low, view.high
    usual = {*NAMES["mask"], *NAMES["types"]}
    if view.count > 1 and low == high and view.spec.name not in usual:
        said.append(f"{name} is {low:g} everywhere.")
    floats = is_float(view.spec.dtype)
    if view.kind == "picture" and floats and high > RAW_PIXELS and low >= 0 and not raw:
        said.append(
            f"{name} has values of {low:g} to {high:g}, pixels that are not normalised; "
            "if the model does that itself, all is well, if not, see --preprocess."
        )
    if view.kind == "picture" and floats and 0 <= low < high < TWICE_SCALED:
        said.append(f"{name} has values up to {high:.2g} alone: were pixels divided by 255 twice?")
    if view.kind == "sound" and max(-low, high) > LOUD:
        said.append(f"{name} has values of {low:g} to {high:g}: sound is of -1 to 1 for most models.")
    if view.kind in ("picture", "sound") and view.count and view.zeros > 0.9 * view.count:
        said.append(f"{view.zeros / view.count:.0%} of {name} is zero.")
    known = ids.get(view.spec.name)
    if known is not None and view.count and (high >= known or low < -known):
        said.append(f"{name} has ids of {low:.0f} to {high:.0f}, and the model knows {known}: it cannot run.")
    return said


def _raw(spec: TensorSpec, recipe: Recipe, metadata: Mapping[str, str]) -> bool:
    told = told_by(metadata, spec)
    return parse(recipe.preprocess).says.unit == 255 or (told is not None and told[1].unit == 255)


def _repeated(seen: Counter[int]) -> list[str]:
    total = sum(seen.values())
    if total > 1 and len(seen) == 1:
        return [f"all {total} samples are the same."]
    if len(seen) < total / 2:
        return [f"of {total} samples {len(seen)} are different, the rest repeats them."]
    return []


def _checksum(sample: tuple[np.ndarray, ...]) -> int:
    """A checksum in 64 bits of a sample's values and shapes."""
    forward = backward = 0
    for values in sample:
        data = repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()
        forward, backward = zlib.crc32(data, forward), zlib.adler32(data, backward)
    return forward << 32 | backward


def _kind(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[Kind, int | None]:
    """What an input seems to hold, and the axis of its channels."""
    found = picture_axes(spec.shape) or (picture_axes(shape) if None in spec.shape else None)
    if found:
        return "picture", found[0]
    if spec.dtype.kind in "iu":
        return "ids", None
    sound = len(shape) in (2, 3) and shape[-1] >= SHORTEST_SOUND and set(shape[1:-1]) <= {1}
    return ("sound" if sound and is_float(spec.dtype) else "other"), None


def _read_back(inputs: tuple[InputView, ...], data: TextFile) -> tuple[str, ...]:
    """The first lines as the tokenizer decodes what is fed, its special tokens included."""
    tokenizer = load_tokenizer(Path(data.tokenizer))
    views = [view for view in inputs if view.spec.name.lower() in NAMES["ids"]] or list(inputs[:1])
    if not views:
        raise ComqError("the model has no inputs", where="--preview-data")
    rows = [row.reshape(-1).astype(int).tolist() for row in views[0].kept[:LINES]]
    return tuple(tokenizer.decode(row, skip_special_tokens=False) for row in rows)
