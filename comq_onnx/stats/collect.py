"""One float pass over the calibration data: the mean and the Gram matrix of every layer's input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.graph.io import Model, to_proto
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer
from comq_onnx.run.data import Calibration
from comq_onnx.run.session import SessionOptions, open_session
from comq_onnx.run.sources import Scratch
from comq_onnx.run.tapped import SHAPE_PREFIX, TappedModel
from comq_onnx.run.widen import widen
from comq_onnx.stats.gram import GramSum, bytes_needed, merged
from comq_onnx.stats.mask import keep_rows, mask_input
from comq_onnx.stats.memory import memory_limit
from comq_onnx.stats.taps import Sampling, Tap, check_finite, rows_of, taps_of

OnBatch = Callable[[int, int], None]
HALVES = 2
"""The samples are summed in two halves, so that one can judge what was solved on the other."""
ITEM = 4
"""Bytes of an activation's element; half-precision models are run in float32."""


@dataclass(frozen=True)
class Collected:
    """Statistics of the calibration data, by layer."""

    stats: dict[str, InputStats | None]
    """None for a layer that no activation reached or that is not tapped (see `taps_of`). Layers that read
    the same tensor in the same way hold the same record."""
    passes: int
    """Times the model was run over the data: more than one where not all sums fit in memory at once."""
    samples: int
    rows: int
    """Rows summed over all taps, per group."""
    notes: tuple[str, ...]
    """What the user must hear of."""
    scratch: Scratch | None = field(default=None, repr=False, compare=False)
    """Holds the Gram matrices on disk where together they exceed the memory limit."""


@dataclass(frozen=True)
class _Survey:
    """What stays the same from pass to pass."""

    tapped: TappedModel
    calibration: Calibration
    sampling: Sampling
    mask: str
    on_batch: OnBatch | None


def collect(
    model: Model,
    layers: Sequence[Layer],
    calibration: Calibration,
    recipe: Recipe,
    on_batch: OnBatch | None = None,
) -> Collected:
    """Run the float model over the data and sum the inputs of `layers`.

    Parameters
    ----------
    model
        The prepared model; float16 and bfloat16 are run in float32.
    layers
        From `graph.find`, in topological order.
    calibration
        Opened on the inputs of this model.
    recipe
        `memory_gib` bounds Gram matrices and activations; `mask_input` names the mask, otherwise an input
        called ``attention_mask`` is taken; `seed` chooses the positions of convolutions.
    on_batch
        Called with (batches done, batches in all).

    ComqError where the model does not run, an activation is not finite, or the mask does not fit.
    """
    taps = taps_of(layers)
    tapped = TappedModel(widen(to_proto(model)))
    mask = mask_input(recipe.mask_input, tapped.inputs, calibration)
    survey = _Survey(tapped, calibration, Sampling(recipe.seed, calibration.samples), mask, on_batch)
    limit = memory_limit(recipe.memory_gib)
    passes = _passes(taps, survey, limit)
    scratch = Scratch() if sum(HALVES * 8 * tap.groups * tap.rows**2 for tap in taps) > limit else None
    found: dict[str, InputStats | None] = {layer.name: None for layer in layers}
    rows = 0
    for number, group in enumerate(passes):
        for tap, halves in _sum(group, survey, number, len(passes)).items():
            rows += sum(half.count for half in halves)
            stats = merged(*(half.stats() for half in halves))
            if stats and scratch:
                stats = _on_disk(stats, scratch.path / f"{len(list(scratch.path.iterdir()))}.npy")
            found |= dict.fromkeys(tap.layers, stats)
    notes = _notes(layers, found, len(passes), mask)
    return Collected(found, len(passes), calibration.samples, rows, notes, scratch)


def _sum(taps: Sequence[Tap], survey: _Survey, number: int, passes: int) -> dict[Tap, list[GramSum]]:
    """Pass `number` of `passes`: run the model over all batches and sum the rows of `taps`, by halves."""
    tensors = list(dict.fromkeys(tap.tensor for tap in taps))
    computed = [name for name in tensors if name not in survey.tapped.inputs]
    session = open_session(survey.tapped.with_outputs(computed), SessionOptions()) if computed else None
    sums: dict[Tap, list[GramSum]] = {}
    first, batches = 0, survey.calibration.batch_count
    for done, batch in enumerate(survey.calibration.batches(), 1):
        values = session.run(batch) if session else {}
        values |= {name: batch[name] for name in tensors if name in survey.tapped.inputs}
        entries = next((len(value) for value in batch.values() if value.ndim), 1)
        mask = np.asarray(batch[survey.mask]) != 0 if survey.mask else None
        for tap in taps:
            _add(sums, tap, values[tap.tensor], mask, survey.sampling, (first, entries))
        first += entries
        if survey.on_batch:
            survey.on_batch(number * batches + done, passes * batches)
    return sums


def _add(
    sums: dict[Tap, list[GramSum]],
    tap: Tap,
    activation: np.ndarray,
    mask: np.ndarray | None,
    sampling: Sampling,
    place: tuple[int, int],
) -> None:
    """Add the rows of one batch; `place` is the number of its first sample and how many it has.

    A batch that holds samples of both halves is cut in two, so that halves do not depend on the batch size.
    """
    first, entries = place
    cut = -(-sampling.samples // HALVES) - first
    if 0 < cut < entries and not tap.batch and activation.ndim and len(activation) == entries:
        for part, start, count in ((slice(cut), first, cut), (slice(cut, None), first + cut, entries - cut)):
            some = None if mask is None else mask[part]
            _add(sums, tap, activation[part], some, sampling, (start, count))
        return
    if mask is not None and tap.kind == "dense" and not tap.batch:
        activation = keep_rows(activation, mask)
    check_finite(tap.tensor, activation, *place)
    if tap not in sums:
        sums[tap] = [GramSum(tap.groups, tap.rows, activation.dtype) for _ in range(HALVES)]
    if activation.size:
        half = sums[tap][int(HALVES * first >= sampling.samples)]
        for rows in rows_of(tap, activation, sampling, first):
            half.add(rows)


def _passes(taps: Sequence[Tap], survey: _Survey, limit: int) -> list[list[Tap]]:
    """Taps that fit in memory together, in order: their sums, and their tensors, which all live at once."""
    if not taps:
        return []
    sizes = _activation_bytes(taps, survey)
    passes: list[list[Tap]] = [[]]
    held, tensors = 0, set()
    for tap in taps:
        need = HALVES * bytes_needed(tap.groups, tap.rows)
        need += 0 if tap.tensor in tensors else sizes.get(tap.tensor, 0)
        if passes[-1] and held + need > limit:
            passes.append([])
            held, tensors = 0, set()
            need = HALVES * bytes_needed(tap.groups, tap.rows) + sizes.get(tap.tensor, 0)
        passes[-1].append(tap)
        tensors.add(tap.tensor)
        held += need
    return passes


def _activation_bytes(taps: Sequence[Tap], survey: _Survey) -> dict[str, int]:
    """Bytes of each tapped tensor in the first batch, of which only the shapes are fetched."""
    names = [name for name in dict.fromkeys(tap.tensor for tap in taps) if name not in survey.tapped.inputs]
    if not names:
        return {}
    session = open_session(survey.tapped.with_shapes(names), SessionOptions(optimize=False))
    shapes = [session.run(batch) for batch in islice(survey.calibration.batches(), 1)]
    return {name: ITEM * int(np.prod(found[SHAPE_PREFIX + name])) for found in shapes for name in names}


def _on_disk(stats: InputStats, path: Path) -> InputStats:
    """The same statistics with the Gram matrix in a file, mapped into memory."""
    try:
        np.save(path, stats.gram, allow_pickle=False)
    except OSError as error:
        raise ComqError(
            f"the Gram matrices exceed the memory limit and cannot be written to disk ({error.strerror})",
            where=str(path.parent),
            fix="raise --memory, or set TMPDIR to a folder with more space",
        ) from error
    half = _on_disk(stats.half, path.with_suffix(".half.npy")) if stats.half else None
    return InputStats(stats.mean, np.load(path, mmap_mode="r", allow_pickle=False), stats.count, half)


def _notes(
    layers: Sequence[Layer], found: dict[str, InputStats | None], passes: int, mask: str
) -> tuple[str, ...]:
    notes = []
    inner = [layer.name for layer in layers if layer.in_subgraph]
    if inner:
        notes.append(
            f"{len(inner)} layers inside If, Loop or Scan bodies see no activations and are solved without"
        )
    for layer in layers:
        if found[layer.name] is None and not layer.in_subgraph and layer.layout.kind != "gather":
            notes.append(f"{layer.name}: no activation reached it, it is solved without")
    if mask:
        notes.append(f"tokens where '{mask}' is 0 are left out")
    if passes > 1:
        notes.append(f"the statistics exceed the memory limit: {passes} passes over the data instead of one")
    return tuple(notes)
