"""What a run will take, told without running the model: bytes of the file, memory, disk, node runs, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from comq_onnx.evaluate.footprint import WARM
from comq_onnx.evaluate.job import Job, lies_outside, middle_batch, widen_shapes
from comq_onnx.evaluate.live import lived, passes_of, summed_at_once, sums_bytes, tensor_bytes
from comq_onnx.evaluate.room import Room
from comq_onnx.evaluate.speed import Speed
from comq_onnx.evaluate.work import (
    CALL,
    SESSION,
    checking,
    forward_of,
    moving,
    solving,
)
from comq_onnx.graph.cut import Segment
from comq_onnx.graph.shapes import known_shapes
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.run.data import Calibration
from comq_onnx.run.tapped import graph_inputs, needed_nodes
from comq_onnx.stats.memory import resident
from comq_onnx.stats.tap_sum import HALVES
from comq_onnx.stats.taps import taps_of


@dataclass(frozen=True)
class Work:
    """By kind of work, in multiply-adds of a large product; see `evaluate.work`."""

    shared: Mapping[str, float]
    """What all cores share"""
    alone: Mapping[str, float]
    """What one core does while the others wait"""

    def seconds(self, speed: Speed) -> dict[str, float]:
        """By kind of work."""
        return {
            kind: (self.shared.get(kind, 0.0) + self.alone.get(kind, 0.0) * speed.threads) / speed.products
            for kind in dict.fromkeys((*self.shared, *self.alone))
        }


@dataclass(frozen=True)
class Estimate:
    """What solving a model on some samples takes; tensors of unknown shape count as nothing."""

    inputs: str
    """Whose inputs layers are solved on: ``quantized`` or ``float``"""
    statistics: int
    """Bytes of sums, most at a time"""
    activations: int
    """Bytes of live activations, most at a time, in memory and on disk together"""
    disk: int
    """Bytes of these two that go to disk"""
    limit: int
    """Bytes that statistics and activations may take in memory"""
    node_runs: int
    """Nodes executed, over all batches"""
    batches: int
    rows: Mapping[str, int]
    """Calibration rows per group, by layer that is solved on activations"""
    work: Work
    peak: int = 0
    """Bytes of the whole process, most at a time, pages mapped from files among them; 0 where weights are
    held in memory"""
    unknown: tuple[str, ...] = field(default=())
    """Tensors whose shapes cannot be told without running the model"""

    @property
    def memory(self) -> int:
        """Bytes of statistics and activations in memory, most at a time."""
        return self.statistics + self.activations - self.disk


def estimate(
    prepared: onnx.ModelProto,
    layers: Sequence[Layer],
    grids: Mapping[str, Grid],
    calibration: Calibration,
    recipe: Recipe,
    inputs: str,
) -> Estimate:
    """What a run takes. The batch of middle size stands for all of them.

    Parameters
    ----------
    prepared, layers, grids
        Of a plan.
    calibration
        Opened on the inputs of `prepared`; only shapes are looked at.
    recipe
        Its `memory_gib` is the limit of statistics and activations.
    inputs
        Those that layers are solved on, ``quantized`` or ``float``.
    """
    model = widen_shapes(prepared)
    batch = middle_batch(calibration)
    shapes = known_shapes(model, {name: value.shape for name, value in batch.items()})
    walked = inputs == "quantized" or lies_outside(prepared)
    job = Job(model, tuple(layers), grids, calibration, recipe, shapes, inputs == "quantized")
    return _sequential(job) if walked else _parallel(job)


def store_limit(
    prepared: onnx.ModelProto,
    layers: Sequence[Layer],
    calibration: Calibration,
    recipe: Recipe,
    paired: bool,
) -> int:
    """Bytes of live activations in memory that leave room for the work on one segment after another.

    For a model whose weights are not held in memory.
    """
    model = widen_shapes(prepared)
    shapes = known_shapes(model, {name: value.shape for name, value in middle_batch(calibration).items()})
    return Job(model, tuple(layers), {}, calibration, recipe, shapes, paired).store_limit


@dataclass(frozen=True)
class Steps:
    """Work by what is done, in one unit: what a progress bar of a sequential run counts."""

    forward: tuple[float, ...]
    """By segment: to run it on all batches"""
    statistics: Mapping[str, float]
    """By layer; layers that share their sums have them counted once"""
    solve: Mapping[str, float]
    """By layer"""

    @property
    def total(self) -> float:
        return sum(self.forward) + sum(self.statistics.values()) + sum(self.solve.values())


def steps_of(
    prepared: onnx.ModelProto,
    layers: Sequence[Layer],
    missing: Sequence[Layer],
    grids: Mapping[str, Grid],
    calibration: Calibration,
    recipe: Recipe,
) -> Steps:
    """The work of solving `missing` one after the other.

    Of the segments behind the last of them, and behind the last stop, nothing.
    """
    model, names = widen_shapes(prepared), {layer.name for layer in missing}
    shapes = known_shapes(model, {name: value.shape for name, value in middle_batch(calibration).items()})
    job = Job(model, tuple(layers), grids, calibration, recipe, shapes)
    segments = job.segments
    wanted = [bool(s.stops) or any(layer.name in names for layer in s.layers) for s in segments]
    last = max((i for i, here in enumerate(wanted) if here), default=-1)
    forward = tuple(sum(_forward(s, job)) if i <= last else 0.0 for i, s in enumerate(segments))
    statistics = dict.fromkeys(names, 0.0)
    for segment in segments:
        for tap in taps_of([layer for layer in segment.layers if layer.name in names]):
            statistics[tap.layers[0]] = sum(job.statistics([tap], drifting=True))
    solve = {layer.name: solving(layer, grids[layer.name], recipe, drifting=True) for layer in missing}
    return Steps(forward, statistics, solve)


def _sequential(job: Job) -> Estimate:
    segments = job.segments
    lives = lived(segments, job.shapes, graph_inputs(job.model), job.batches)
    room = job.limit // 2
    held = job.store_limit
    taps = [tap for segment in segments for tap in taps_of(segment.layers)]
    sums, alone = job.statistics(taps, job.paired)
    forward = [_forward(segment, job) for segment in segments]
    shared = {
        "forward": sum(work for work, _ in forward),
        "statistics": sums,
        "solve": job.solving(job.paired),
        "check": checking(job.layers),
    }
    statistics = summed_at_once(segments, room, job.paired, job.recipe.shards)
    return Estimate(
        inputs="quantized" if job.paired else "float",
        statistics=statistics,
        activations=lives.peak,
        disk=max(0, lives.peak - held),
        limit=job.limit,
        node_runs=lives.node_runs,
        batches=job.batches,
        rows={name: job.rows(tap) for tap in taps for name in tap.layers},
        work=Work(shared, {"forward": sum(work for _, work in forward), "statistics": alone}),
        peak=_peak(job, min(lives.peak, held) + max(statistics, job.workspace)),
        unknown=job.unknown(),
    )


def _peak(job: Job, solving: int) -> int:
    """Bytes of the process where weights are not held: while layers are solved, or while the file is run."""
    if not lies_outside(job.model):
        return 0
    return resident() + WARM + max(solving, Room(job.limit).taken(job.file_bytes))


def _forward(segment: Segment, job: Job) -> tuple[float, float]:
    """Running one segment on all batches: what cores share, and what one of them does."""
    if not segment.nodes or not segment.keeps:
        return 0.0, 0.0
    networks = 1 if segment.shared else 2
    carried = moving((*segment.reads, *segment.keeps), job.shapes)
    shared = forward_of(segment.nodes, job.shapes).work
    return networks * job.batches * shared, networks * (SESSION + job.batches * (CALL + carried))


def _parallel(job: Job) -> Estimate:
    taps = taps_of(job.layers)
    passes = passes_of(taps, job.shapes, job.limit, job.recipe.shards)
    grams = sum(HALVES * 8 * tap.groups * tap.rows**2 for tap in taps)
    nodes = [needed_nodes(job.model.graph.node, {tap.tensor for tap in group}) for group in passes]
    tensors = max((tensor_bytes(group, job.shapes) for group in passes), default=0)
    sums, alone = job.statistics(taps, drifting=False)
    shared = {
        "forward": job.batches * sum(forward_of(needed, job.shapes).work for needed in nodes),
        "statistics": sums,
        "solve": job.solving(drifting=False),
        "check": checking(job.layers),
    }
    carried = moving({tap.tensor for tap in taps}, job.shapes)
    forward = len(passes) * (SESSION + job.batches * CALL) + job.batches * carried
    # The Grams of finished passes are kept; together beyond the limit, they are kept on disk.
    kept = grams if len(passes) > 1 else 0
    return Estimate(
        inputs="float",
        statistics=max((sums_bytes(group, job.recipe.shards) for group in passes), default=0) + kept,
        activations=tensors,
        disk=kept if grams > job.limit else 0,
        limit=job.limit,
        node_runs=job.batches * sum(map(len, nodes)),
        batches=job.batches,
        rows={name: job.rows(tap) for tap in taps for name in tap.layers},
        work=Work(shared, {"forward": forward, "statistics": alone}),
        unknown=job.unknown(),
    )
