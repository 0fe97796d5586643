"""One pass over the calibration data that watches the values of some tensors."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.run.data import Batch, Calibration
from comq_onnx.run.session import Session, SessionOptions, open_session
from comq_onnx.run.tapped import SHAPE_PREFIX, TappedModel
from comq_onnx.run.widen import widen, widened
from comq_onnx.stats.histogram import BINS, Histogram
from comq_onnx.stats.mask import keep_rows, mask_input
from comq_onnx.stats.memory import memory_limit
from comq_onnx.stats.taps import Sampling, Tap, rows_of, taps_of

OnBatch = Callable[[int, int], None]
ROWS = 1024
"""Rows of a layer's input that are kept, from all samples together"""
ROWS_BYTES = 1 << 22
"""What they may take, for one tap"""
ITEM = 4
"""Bytes of an element, in float32"""


@dataclass(frozen=True)
class Seen:
    """The tensors of one batch."""

    values: Mapping[str, np.ndarray]
    mask: np.ndarray | None
    """``(batch, sequence)``, true where a token counts"""
    first: int
    """Number of the first sample"""
    entries: int


def watch(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    calibration: Calibration,
    recipe: Recipe,
    on_batch: OnBatch | None = None,
) -> dict[str, Histogram]:
    """Histograms of tensors over all batches: padding tokens left out where the shape tells them.

    Parameters
    ----------
    model
        Any model of the calibration's inputs; it is as before when this returns. float16 and bfloat16 are
        run in float32.
    tensors
        Outputs of nodes of the main graph, or graph inputs.
    calibration
        Opened on the inputs of this model.
    recipe
        `memory_gib` bounds the tensors that live at once: where they are more, the model is run several
        times; `mask_input`, `threads` and the device count as in `stats.collect`.
    on_batch
        Called with (batches done, batches in all).

    ComqError where the model does not run, a value is not finite, or the mask does not fit.
    """
    found = {name: Histogram() for name in tensors}
    for seen in _batches(model, dict.fromkeys(tensors, ITEM * 2 * BINS), calibration, recipe, on_batch):
        for name, values in seen.values.items():
            kept = values if seen.mask is None else keep_rows(values, seen.mask)
            try:
                found[name].add(kept)
            except ValueError as error:
                raise _not_finite(name, seen) from error
    return found


def watch_rows(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    calibration: Calibration,
    recipe: Recipe,
    on_batch: OnBatch | None = None,
) -> dict[str, np.ndarray]:
    """Some rows ``(groups, n, rows)`` of the input of each layer, float32, by its name.

    About `ROWS` rows, evenly from all samples, and the same on every run; layers that read the same tensor in
    the same way have the same array. Padding is left out as in the layers' statistics. Layers without rows
    are left out: those in subgraphs, Gathers, and those that no activation reaches. The other parameters, and
    errors, are those of `watch`.
    """
    taps = taps_of(layers)
    sampling, found = Sampling(recipe.seed, calibration.samples), {tap: list[np.ndarray]() for tap in taps}
    held: dict[str, int] = {}
    for tap in taps:
        held[tap.tensor] = held.get(tap.tensor, 0) + ITEM * tap.groups * tap.rows * _rows_wanted(tap)
    for seen in _batches(model, held, calibration, recipe, on_batch):
        for tap, parts in found.items():
            if tap.tensor in seen.values:
                parts.extend(_some_rows(tap, seen, sampling))
    joined = {tap: np.concatenate(parts, axis=1) for tap, parts in found.items() if parts}
    return {name: rows for tap, rows in joined.items() for name in tap.layers if rows.shape[1]}


def _some_rows(tap: Tap, seen: Seen, sampling: Sampling) -> Iterator[np.ndarray]:
    """This batch's share of the rows of a tap, drawn by the seed, the tensor and the number of the sample."""
    values = seen.values[tap.tensor]
    if not np.isfinite(values).all():
        raise _not_finite(tap.tensor, seen)
    if seen.mask is not None and tap.kind == "dense" and not tap.batch:
        values = keep_rows(values, seen.mask)
    if not values.size:
        return
    parts = list(rows_of(tap, values, sampling, seen.first))
    share = max(1, round(_rows_wanted(tap) * seen.entries / max(1, sampling.samples) / len(parts)))
    for number, rows in enumerate(parts):
        if rows.shape[1] > share:
            rng = np.random.default_rng((sampling.seed, *tap.tensor.encode(), seen.first, number))
            rows = rows[:, np.sort(rng.choice(rows.shape[1], share, replace=False))]
        yield rows.astype(np.float32)


def _rows_wanted(tap: Tap) -> int:
    return max(1, min(ROWS, ROWS_BYTES // (ITEM * tap.groups * tap.rows)))


def _batches(
    model: onnx.ModelProto,
    held: Mapping[str, int],
    calibration: Calibration,
    recipe: Recipe,
    on_batch: OnBatch | None,
) -> Iterator[Seen]:
    """Run the model over all batches, once for each group of tensors that fit in memory together.

    `held` names the tensors, with the bytes that are kept of each.
    """
    options = SessionOptions(threads=recipe.threads, device=recipe.run_device)
    with _tapped(model) as tapped:
        mask = mask_input(recipe.mask_input, tapped.inputs, calibration)
        groups = _groups(tapped, held, calibration, memory_limit(recipe.memory_gib))
        for number, names in enumerate(groups):
            computed = [name for name in names if name not in tapped.inputs]
            session = open_session(tapped.with_outputs(computed), options) if computed else None
            first, batches = 0, calibration.batch_count
            for done, batch in enumerate(calibration.batches(), 1):
                entries = calibration.entries(batch)
                padding = np.asarray(batch[mask]) != 0 if mask else None
                yield Seen(_values(names, batch, session), padding, first, entries)
                first += entries
                if on_batch:
                    on_batch(number * batches + done, len(groups) * batches)


def _values(names: Sequence[str], batch: Batch, session: Session | None) -> dict[str, np.ndarray]:
    computed = session.run(batch) if session else {}
    return {name: computed[name] if name in computed else widened(batch[name]) for name in names}


@contextmanager
def _tapped(model: onnx.ModelProto) -> Iterator[TappedModel]:
    """The model with other outputs, for as long as this lasts."""
    whole, outputs = onnx.GraphProto(), onnx.GraphProto()
    whole.node.extend(model.graph.node)
    outputs.output.extend(model.graph.output)
    try:
        yield TappedModel(widen(model))
    finally:
        del model.graph.node[:], model.graph.output[:]
        model.graph.node.extend(whole.node)
        model.graph.output.extend(outputs.output)


def _groups(
    tapped: TappedModel, held: Mapping[str, int], calibration: Calibration, limit: int
) -> list[list[str]]:
    """Tensors that fit in memory together, in order. Of the first batch, only the shapes are computed."""
    computed = [name for name in held if name not in tapped.inputs]
    sizes = dict.fromkeys(held, 0)
    if computed:
        session = open_session(tapped.with_shapes(computed), SessionOptions(optimize=False))
        for batch in islice(calibration.batches(), 1):
            shapes = session.run(batch)
            sizes |= {name: ITEM * math.prod(shapes[SHAPE_PREFIX + name].tolist()) for name in computed}
    # What is kept may not leave so little that the model is run for each tensor anew.
    limit = max(limit - sum(held.values()), limit // 4)
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups


def _not_finite(name: str, seen: Seen) -> ComqError:
    last = seen.first + seen.entries - 1
    where = f"sample {last}" if seen.entries == 1 else f"samples {seen.first} to {last}"
    return ComqError(
        "the model computes NaN or infinity",
        where=f"tensor '{name}', calibration {where}",
        fix="check the model, and that the data are preprocessed as it was trained",
    )
