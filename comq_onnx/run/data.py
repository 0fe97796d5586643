"""Calibration data: any source, checked once, as the same batches on every call."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run import synthetic
from comq_onnx.run.feeds.opening import open_source
from comq_onnx.run.feeds.wanted import Wanted
from comq_onnx.run.fit import BatchAxis, Sample, batch_axis, entries, samples_of
from comq_onnx.run.session import TensorSpec
from comq_onnx.run.sources import Record, Source

MOST_MADE = 1 << 32
"""Bytes of a made-up batch, in float64, at most"""
MOST_MADE_SAMPLES = 4096
"""Of a batch that a model fixes; each takes a few milliseconds"""
Batch = dict[str, np.ndarray]


def _leading(batch: Batch) -> int:
    return next((len(value) for value in batch.values() if value.ndim), 1)


@dataclass
class Calibration:
    """Batches of feeds by input name. A batch never mixes shapes."""

    description: str
    """What is fed, for the summary: ``"128 samples of calib.npz"``."""
    samples: int
    synthetic: bool
    """True where no data were given and made-up inputs stand in."""
    batch_count: int
    make: Callable[[], Iterator[Batch]] = field(repr=False)
    entries: Callable[[Batch], int] = field(default=_leading, repr=False)
    """Samples in a batch"""
    notes: tuple[str, ...] = ()
    """What the user must be told of the data, a sentence each"""
    cut: Callable[[Batch, np.ndarray], Batch] | None = field(default=None, repr=False)
    """The samples of a batch where a mask is true; None where a batch has a fixed size"""

    sized: Callable[[int], "Calibration"] | None = field(default=None, repr=False)
    """The same samples, so many to a batch; None where the batch is fixed"""

    def batches(self) -> Iterator[Batch]:
        """The same batches in the same order on every call."""
        return self.make()


def split(calibration: Calibration, every: int) -> tuple[Calibration, Calibration]:
    """All batches but the last of each `every`, and those."""

    def part(held: bool) -> Calibration:
        def make() -> Iterator[Batch]:
            for number, batch in enumerate(calibration.batches()):
                if (number % every == every - 1) == held:
                    yield batch

        counts = [calibration.entries(batch) for batch in make()]
        said = f"{sum(counts)} of {calibration.description}, the others held out"
        count = len(counts)
        return replace(
            calibration, description=said, samples=sum(counts), batch_count=count, make=make, sized=None
        )

    return part(False), part(True)


def open_calibration(
    source: Any,
    inputs: Sequence[TensorSpec],
    recipe: Recipe,
    vocabulary: dict[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Calibration:
    """Open calibration data and check all of it against the model's inputs.

    Parameters
    ----------
    source
        None for structured synthetic inputs; a path of a ``.npz`` (keys are input names, the leading axis is
        samples), a ``.npy`` (models of one input), a ``.pt``, or a folder of arrays, pictures or sounds; a
        `TextFile`; a dict of stacked arrays; an iterable of dicts, such as a torch ``DataLoader``; an
        onnxruntime `CalibrationDataReader`; a function that gives any of them. One-shot iterables are read
        once and kept on disk.
    inputs
        The model's inputs; `run.fit` says how arrays are matched to them.
    recipe
        `calibration_samples` caps the samples, `batch_size` groups them where the batch axis is dynamic (a
        fixed batch is filled), `calibration_shapes` and `seed` shape the synthetic inputs.
    vocabulary
        Number of valid ids of an integer input, where known; used by synthetic inputs and by text.
    metadata
        The model's own, which may say how pictures are prepared.

    ComqError names the file, the input, and what was expected and found.
    """
    if source is None:
        return _synthetic(inputs, recipe, vocabulary or {})
    return _given(source, inputs, recipe, (metadata or {}, vocabulary or {}))


def _given(
    source: Any,
    inputs: Sequence[TensorSpec],
    recipe: Recipe,
    known: tuple[Mapping[str, str], Mapping[str, int]],
) -> Calibration:
    """Samples that the user has; `known` are the model's metadata and the sizes of its tables."""
    axis = batch_axis(inputs)
    size, cap = _batch_and_cap(axis, recipe)
    remaining = cap

    def enough(record: Record) -> bool:
        nonlocal remaining
        remaining -= sum(sample.count for sample in samples_of(record, inputs, axis))
        return remaining <= 0

    wanted = Wanted(tuple(inputs), enough, cap, size, recipe.preprocess, recipe.max_length, *known)
    opened = open_source(source, wanted)

    return _sized(opened, inputs, axis, cap, size)


def _sized(opened: Source, inputs: Sequence[TensorSpec], axis: BatchAxis, cap: int, size: int) -> Calibration:
    """Samples that the user has, `size` to a batch."""

    def make() -> Iterator[Batch]:
        samples = (sample for record in opened.records() for sample in samples_of(record, inputs, axis))
        return _group(_capped(samples, cap), size, axis)

    # One dry pass: what is wrong with the data is said before the model runs, not in the middle of it.
    counts = [entries(batch, axis) for batch in make()]
    if not counts:
        raise _empty(opened.description, axis, sum(1 for _ in islice(opened.records(), 1)))
    text = f"{sum(counts)} samples of {opened.description}"
    free = axis.size is None
    return Calibration(
        description=text,
        samples=sum(counts),
        synthetic=False,
        batch_count=len(counts),
        make=make,
        entries=partial(entries, batch=axis),
        notes=opened.notes,
        cut=partial(_cut, joined=axis.joined) if free else None,
        sized=partial(_sized, opened, inputs, axis, cap) if free else None,
    )


def _synthetic(inputs: Sequence[TensorSpec], recipe: Recipe, vocabulary: dict[str, int]) -> Calibration:
    plan = synthetic.plan(inputs, recipe, vocabulary)
    axis = batch_axis(inputs)
    size, cap = _batch_and_cap(axis, recipe)
    members = [item for item in plan if item.spec.name in axis.members]
    per_run = max((item.shape[0] for item in members), default=1)
    size = max(size, per_run)
    _check_made(plan, min(size, cap) if members else 1, axis)
    return _made(plan, axis, recipe.seed, cap, size)


def _made(plan: Sequence[synthetic.Planned], axis: BatchAxis, seed: int, cap: int, size: int) -> Calibration:
    """Made-up samples, `size` to a batch."""
    members = any(item.spec.name in axis.members for item in plan)
    singles = [item.with_lead(1) if item.spec.name in axis.members else item for item in plan]
    # What is no batch is the same for all samples of a fixed one, or they could not be run together.
    shared = [item.spec.name for item in plan if axis.size and item.spec.name not in axis.members]

    def make() -> Iterator[Batch]:
        whole = synthetic.make(singles, seed, 0) if shared else {}
        for_all = {name: whole[name] for name in shared}
        feeds = (synthetic.make(singles, seed, i) | for_all for i in range(cap))
        return _group((Sample(feed, 1, members, "synthetic inputs") for feed in feeds), size, axis)

    kinds = "; ".join(f"'{item.spec.name}' {item.says}" for item in plan)
    count = cap // size * size if axis.size else cap
    runs = -(-count // size) if members else count
    text = f"NO DATA GIVEN: {count} synthetic samples, {kinds}"
    smaller = None if axis.size else partial(_made, plan, axis, seed, cap)
    return Calibration(text, count, True, runs, make, partial(entries, batch=axis), sized=smaller)


def _check_made(plan: Sequence[synthetic.Planned], size: int, axis: BatchAxis) -> None:
    """ComqError where a batch of made-up inputs is larger than any that is meant: files declare anything."""
    if axis.size and axis.size > MOST_MADE_SAMPLES:
        raise ComqError(
            f"a batch of {axis.size:,} samples is not made up",
            where=f"input '{plan[0].spec.name}'",
            fix="give --calibration-data",
        )
    for item in plan:
        lead = size if item.spec.name in axis.members else 1
        one = math.prod(item.with_lead(1).shape if item.spec.name in axis.members else item.shape)
        if lead * one * max(item.spec.dtype.itemsize, 8) > MOST_MADE:
            raise ComqError(
                f"made-up inputs of {lead * one:,} numbers are not made",
                where=f"input '{item.spec.name}'",
                fix="give --calibration-data, or --calibration-shapes where its shape is open",
            )


def _batch_and_cap(axis: BatchAxis, recipe: Recipe) -> tuple[int, int]:
    """Samples to a batch and samples in all; with a fixed batch the last is a multiple of the first."""
    if axis.size:
        return axis.size, max(axis.size, recipe.calibration_samples // axis.size * axis.size)
    return recipe.batch_size, recipe.calibration_samples


def _capped(samples: Iterator[Sample], cap: int) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        cap -= sample.count
        if cap <= 0:
            return


def _group(samples: Iterator[Sample], size: int, axis: BatchAxis) -> Iterator[Batch]:
    """Join neighbours of equal shapes. A fixed batch is filled or dropped, never mixed or padded."""
    pending: list[Sample] = []

    def flush() -> Iterator[Batch]:
        if pending and (not axis.size or len(pending) == axis.size):
            yield _join(pending, axis)
        pending.clear()

    for sample in samples:
        if not sample.groupable or sample.count != 1:
            yield from flush()
            _check_fixed(sample, axis)
            yield sample.feeds
            continue
        if pending and not _joinable(pending[0], sample, axis):
            yield from flush()
        pending.append(sample)
        if len(pending) == size:
            yield from flush()
    yield from flush()


def _check_fixed(sample: Sample, axis: BatchAxis) -> None:
    if axis.size and sample.count != axis.size:
        raise ComqError(
            f"a sample of {sample.count} cannot fill the model's fixed batch of {axis.size}",
            where=sample.where,
            fix="stack whole batches along a new leading axis, for every input",
        )


def _joinable(first: Sample, other: Sample, axis: BatchAxis) -> bool:
    return all(
        first.feeds[name].shape == value.shape
        and (name in axis.joined or value is first.feeds[name] or np.array_equal(value, first.feeds[name]))
        for name, value in other.feeds.items()
    )


def _join(samples: list[Sample], axis: BatchAxis) -> Batch:
    first = samples[0].feeds
    if len(samples) == 1:
        return first
    return {
        name: np.concatenate([s.feeds[name] for s in samples]) if name in axis.joined else value
        for name, value in first.items()
    }


def _cut(batch: Batch, mask: np.ndarray, joined: Collection[str]) -> Batch:
    return {name: value[mask] if name in joined else value for name, value in batch.items()}


def _empty(where: str, axis: BatchAxis, records: int) -> ComqError:
    if records and axis.size:
        return ComqError(
            f"the samples do not fill one batch: the model's batch is fixed at {axis.size}",
            where=where,
            fix=f"give at least {axis.size} samples of equal shape",
        )
    return ComqError("it holds no samples", where=where, fix="give at least one")
