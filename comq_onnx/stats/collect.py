"""One float pass over the calibration data: the mean and the Gram matrix of every layer's input."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from comq_onnx.backends.engine import Engine, cpu_engine, single_threaded_blas
from comq_onnx.errors import ComqError, NotFiniteError
from comq_onnx.graph.io import Model, to_proto
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer
from comq_onnx.run.astray import origin
from comq_onnx.run.data import Batch, Calibration
from comq_onnx.run.session import Session, SessionOptions, open_session
from comq_onnx.run.sources import Scratch
from comq_onnx.run.tapped import SHAPE_PREFIX, TappedModel
from comq_onnx.run.widen import widen, widened
from comq_onnx.stats.mask import mask_input
from comq_onnx.stats.memory import device_memory_limit, memory_limit
from comq_onnx.stats.tap_sum import HALVES, ShardSum, Taken, TapSum, doubtful_of, sum_bytes
from comq_onnx.stats.taps import Sampling, Tap, taps_of

OnBatch = Callable[[int, int], None]
WORK_TO_SHARE = 1 << 20
"""Multiplications for a tap and a batch below which to hand them to a thread takes longer than to do them."""
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
    engine: Engine
    device: str

    def options(self, optimize: bool = True) -> SessionOptions:
        """How the model is run."""
        return SessionOptions(optimize=optimize, threads=self.engine.threads, device=self.device)


def collect(
    model: Model,
    layers: Sequence[Layer],
    calibration: Calibration,
    recipe: Recipe,
    on_batch: OnBatch | None = None,
    engine: Engine | None = None,
    device: str = "cpu",
    thin: int = 1,
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
        `memory_gib` bounds Gram matrices and activations, on a GPU too; `mask_input` names the mask,
        otherwise an input called ``attention_mask`` is taken; `seed` chooses the positions of convolutions.
    on_batch
        Called with (batches done, batches in all).
    engine
        What sums, `cpu_engine` if none is given. On a CPU the taps are shared out among its threads, and the
        statistics have the same bits on any number of them. The sums of a GPU stay there to the end of a
        pass; then each mean and Gram is copied to the host, once: statistics are NumPy arrays always.
    device
        What runs the model: ``cpu``, or ``cuda:i``, from where activations go to an engine on the same GPU
        without a copy.
    thin
        Convolutions of many positions are looked at in one sample of so many.

    ComqError where the model does not run, an activation is not finite, or the mask does not fit.
    """
    engine = engine or cpu_engine()
    taps = taps_of(layers)
    survey = replace(_survey(model, calibration, recipe, engine), on_batch=on_batch, device=device)
    survey = replace(survey, sampling=replace(survey.sampling, thin=thin))
    passes = _passes(taps, survey, recipe.memory_gib)
    limit = memory_limit(recipe.memory_gib)
    scratch = Scratch() if sum(HALVES * 8 * tap.groups * tap.rows**2 for tap in taps) > limit else None
    found: dict[str, InputStats | None] = {layer.name: None for layer in layers}
    rows = 0
    for number, group in enumerate(passes):
        for tap_sum in _sum(group, survey, number, len(passes)):
            rows += tap_sum.count
            stats = tap_sum.stats()
            if stats and scratch:
                stats = _on_disk(stats, scratch.path / f"{len(list(scratch.path.iterdir()))}.npy")
            found |= dict.fromkeys(tap_sum.tap.layers, stats)
    notes = notes_on(layers, {name for name, stats in found.items() if stats}, survey.mask, calibration)
    if len(passes) > 1:
        notes += (
            f"the statistics exceed the memory limit: {len(passes)} passes over the data instead of one",
        )
    return Collected(found, len(passes), calibration.samples, rows, notes, scratch)


def passes_over(
    model: Model, layers: Sequence[Layer], calibration: Calibration, recipe: Recipe, engine: Engine
) -> list[list[Tap]]:
    """The taps that `collect` sums in each of its passes over the data."""
    survey = _survey(model, calibration, recipe, engine)
    return _passes(taps_of(layers), survey, recipe.memory_gib)


def collect_shard(
    model: Model,
    taps: Sequence[Tap],
    calibration: Calibration,
    place: tuple[int, int, int],
    how: tuple[Recipe, Engine],
) -> list[InputStats | None]:
    """What `collect` sums of one shard, in one of its passes: the statistics of `taps`, those of the pass.

    `calibration` holds the batches that have samples of the shard; `place` is its number, that of the first
    sample, and how many samples there are in all.
    """
    (number, first, samples), (recipe, engine) = place, how
    survey = _survey(model, calibration, recipe, engine, samples)
    xp, tensors = engine.backend.xp, list(dict.fromkeys(tap.tensor for tap in taps))
    sums = [ShardSum(tap, survey.sampling, xp, number) for tap in taps]
    session = _opened(tensors, survey)
    for batch in calibration.batches():
        taken = _take(batch, session, tensors, survey, first)
        _add(sums, taken, engine)
        first += taken.entries
    return [shard.stats() for shard in sums]


def _survey(
    model: Model, calibration: Calibration, recipe: Recipe, engine: Engine, samples: int = 0
) -> _Survey:
    """`samples` are all there are, where `calibration` has not got them all."""
    tapped = TappedModel(widen(to_proto(model)))
    mask = mask_input(recipe.mask_input, tapped.inputs, calibration)
    sampling = Sampling(recipe.seed, samples or calibration.samples, recipe.shards)
    return _Survey(tapped, calibration, sampling, mask, None, engine, recipe.run_device)


def _opened(tensors: Sequence[str], survey: _Survey) -> Session | None:
    computed = [name for name in tensors if name not in survey.tapped.inputs]
    return open_session(survey.tapped.with_outputs(computed), survey.options()) if computed else None


def _sum(taps: Sequence[Tap], survey: _Survey, number: int, passes: int) -> list[TapSum]:
    """Pass `number` of `passes`: run the model over all batches and sum the rows of `taps`."""
    xp = survey.engine.backend.xp
    tensors = list(dict.fromkeys(tap.tensor for tap in taps))
    session = _opened(tensors, survey)
    sums = [TapSum(tap, survey.sampling, xp) for tap in taps]
    first, batches = 0, survey.calibration.batch_count
    for done, batch in enumerate(survey.calibration.batches(), 1):
        taken = _take(batch, session, tensors, survey, first)
        try:
            _add(sums, taken, survey.engine)
        except NotFiniteError as error:
            raise _located(error, batch, survey) from error
        first += taken.entries
        del taken
        if survey.on_batch:
            survey.on_batch(number * batches + done, passes * batches)
    return sums


def _located(error: NotFiniteError, batch: Batch, survey: _Survey) -> NotFiniteError:
    """The same error with the node that NaN or infinity comes from."""
    feeds = {name: widened(value) for name, value in batch.items()}
    node = origin(survey.tapped, error.tensor, feeds, survey.options())
    return error if node is None else error.located("float", node.name, node.op_type)


def _add(sums: Sequence[TapSum] | Sequence[ShardSum], taken: Taken, engine: Engine) -> None:
    """Add one batch to all sums; of several errors the one of the first tap is raised."""
    xp = engine.backend.xp
    if xp is not np:
        for tap_sum in sums:
            tap_sum.add(taken)
        # The runtime writes the next batch where this one is, on a stream of its own.
        xp.cuda.get_current_stream().synchronize()
        return
    work = sum(taken.values[tap_sum.tap.tensor].size * tap_sum.tap.rows for tap_sum in sums)
    if work < WORK_TO_SHARE * len(sums):
        engine = replace(engine, threads=1)
    with single_threaded_blas():
        list(engine.map(lambda tap_sum: tap_sum.add(taken), sums))


def _take(
    batch: Batch, session: Session | None, tensors: Sequence[str], survey: _Survey, first: int
) -> Taken:
    """Run the model on one batch, whose first sample has the number `first`.

    What is computed and summed on the same GPU never leaves it.
    """
    xp = survey.engine.backend.xp
    stays = xp is not np and survey.device != "cpu"
    found: dict[str, Any] = {}
    if session:
        found |= session.run_on_device(batch) if stays else session.run(batch)
    found |= {name: widened(batch[name]) for name in tensors if name in survey.tapped.inputs}
    values = {name: xp.asarray(value) for name, value in found.items()}
    entries = survey.calibration.entries(batch)
    mask = np.asarray(batch[survey.mask]) != 0 if survey.mask else None
    return Taken(values, doubtful_of(values, xp), mask, first, entries)


def _passes(taps: Sequence[Tap], survey: _Survey, gib: float) -> list[list[Tap]]:
    """Taps that fit in memory together, in order: their sums, and their tensors, which all live at once."""
    if not taps:
        return []
    xp = survey.engine.backend.xp
    limit = memory_limit(gib) if xp is np else device_memory_limit(xp, gib)
    sizes = _activation_bytes(taps, survey)
    passes: list[list[Tap]] = [[]]
    held, tensors = 0, set()
    for tap in taps:
        sums = sum_bytes(tap, xp, shards=survey.sampling.shards)
        need = sums + (0 if tap.tensor in tensors else sizes.get(tap.tensor, 0))
        if passes[-1] and held + need > limit:
            passes.append([])
            held, tensors = 0, set()
            need = sums + sizes.get(tap.tensor, 0)
        passes[-1].append(tap)
        tensors.add(tap.tensor)
        held += need
    return passes


def _activation_bytes(taps: Sequence[Tap], survey: _Survey) -> dict[str, int]:
    """Bytes of each tapped tensor in the first batch, of which only the shapes are fetched."""
    names = [name for name in dict.fromkeys(tap.tensor for tap in taps) if name not in survey.tapped.inputs]
    if not names:
        return {}
    session = open_session(survey.tapped.with_shapes(names), survey.options(optimize=False))
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


def notes_on(
    layers: Sequence[Layer], seen: Collection[str], mask: str, calibration: Calibration
) -> tuple[str, ...]:
    """What a user must hear; `seen` names the layers that activations reached, `mask` the mask's input."""
    notes = []
    inner = [layer.name for layer in layers if layer.in_subgraph]
    if inner:
        notes.append(
            f"{len(inner)} layers inside If, Loop or Scan bodies see no activations and are solved without"
        )
    for layer in layers:
        if layer.name not in seen and not layer.in_subgraph and layer.layout.kind != "gather":
            notes.append(f"{layer.name}: no activation reached it, it is solved without")
    if mask:
        notes.append(f"tokens where '{mask}' is 0 are left out")
    if calibration.samples < HALVES:
        notes.append("one sample only: none is held out, so how far it is trusted is a guess")
    return tuple(notes)
