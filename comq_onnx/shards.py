"""What the workers of a cluster do: pure functions of a shard of the samples, and of what was solved before.

Nothing is kept on a worker but what can be computed again from the arguments, and bits depend neither on
which worker computes nor on when its answer comes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import onnx

from comq_onnx.backends.engine import Engine, open_engine, single_threaded_blas
from comq_onnx.errors import ComqError
from comq_onnx.graph.io import Model, load
from comq_onnx.grid import Grid
from comq_onnx.layerwise import solve
from comq_onnx.moments import of_shards
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer, Solution
from comq_onnx.run.data import Batch, Calibration
from comq_onnx.run.live import Live
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.stream import Stream
from comq_onnx.run.widen import widen
from comq_onnx.stats.collect import collect_shard
from comq_onnx.stats.pairs import fill
from comq_onnx.stats.tap_sum import ShardSum
from comq_onnx.stats.taps import Sampling, Tap

UNBOUNDED = 1 << 62
"""Bytes of live tensors: whether they go to disk is the cluster's to say"""


@dataclass(frozen=True)
class Ground:
    """What all tasks of a run stand on."""

    digest: str
    """SHA-256 of the model"""
    path: Path | None
    """The prepared model in a file that all workers see, or else"""
    message: bytes = field(repr=False)
    """its bytes"""
    layers: tuple[Layer, ...] = field(repr=False)
    recipe: Recipe
    paired: bool

    def __hash__(self) -> int:
        return hash((self.digest, self.paired))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ground) and (self.digest, self.paired, self.recipe) == (
            other.digest,
            other.paired,
            other.recipe,
        )


@dataclass(frozen=True)
class Shard:
    """Neighbouring batches, some of whose samples are of this shard."""

    number: int
    first: int
    """Number of the first batch's first sample"""
    batches: tuple[Batch, ...] = field(repr=False)
    entries: tuple[int, ...]
    masks: tuple[np.ndarray, ...] = field(repr=False)
    """Of each batch; nothing where no input is one"""

    @property
    def calibration(self) -> Calibration:
        """Its batches."""
        counts = dict(zip(map(id, self.batches), self.entries, strict=True))
        return Calibration(
            "a shard",
            sum(self.entries),
            False,
            len(self.batches),
            lambda: iter(self.batches),
            lambda batch: counts[id(batch)],
        )


def shards_of(calibration: Calibration, sampling: Sampling, mask: str = "") -> Iterator[Shard]:
    """The batches that have samples of each shard; of samples that two shards share, both have the batch."""
    batches = list(calibration.batches())
    entries = [calibration.entries(batch) for batch in batches]
    firsts = list(accumulate(entries, initial=0))
    for number in range(sampling.shards):
        start, end = sampling.shard(number)
        mine = [i for i, count in enumerate(entries) if firsts[i] < end and firsts[i] + count > start]
        held: list[Batch] = [batches[i] for i in mine]
        masks = tuple(np.asarray(batch[mask]) != 0 for batch in held) if mask else ()
        counts = tuple(entries[i] for i in mine)
        yield Shard(number, firsts[mine[0]] if mine else start, tuple(held), counts, masks)


@dataclass(frozen=True)
class Opened:
    """A model as a worker holds it."""

    model: Model
    stream: Stream
    """Without samples: to be forked"""
    engine: Engine


@lru_cache(maxsize=1)
def opened(ground: Ground) -> Opened:
    """`read`, once in a worker."""
    return read(ground)


def read(ground: Ground) -> Opened:
    """Read and cut the model. ComqError where the file is another one by now."""
    message = ground.message if ground.path is None else ground.path.read_bytes()
    if digest_of(message) != ground.digest:
        raise ComqError(
            "the model changed while it was worked on", where=str(ground.path), fix="run it again"
        )
    proto = onnx.load_model_from_string(message)
    engine = open_engine(ground.recipe.device, ground.recipe.threads)
    options = SessionOptions(threads=engine.threads, device=ground.recipe.run_device)
    nothing = Calibration("nothing", 0, False, 0, lambda: iter(()))
    stream = Stream(widen(proto), ground.layers, nothing, options, UNBOUNDED, paired=ground.paired)
    return Opened(load(proto), stream, engine)


def digest_of(message: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(message).hexdigest()


def digest_at(path: str) -> str:
    """That of a file; empty where this worker does not see it."""
    try:
        return digest_of(Path(path).read_bytes())
    except OSError:
        return ""


def all_seen(sizes: Mapping[str, int]) -> bool:
    """Whether this worker sees all these files, of these sizes."""
    paths = {Path(name): size for name, size in sizes.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def same(value: object) -> object:
    """What it is given: so that it lies on a worker, and can be sent there again."""
    return value


def swept(ground: Ground, shard: Shard, taps: Sequence[Tap], samples: int) -> list[InputStats | None]:
    """The statistics of taps over one shard of the float network's inputs, the model run as a whole."""
    here = opened(ground)
    place, how = (shard.number, shard.first, samples), (ground.recipe, here.engine)
    return collect_shard(here.model, taps, shard.calibration, place, how)


def pick(values: Sequence[object], at: int) -> object:
    """One of several answers."""
    return values[at]


def begin(ground: Ground, shard: Shard) -> Live:
    """The inputs that the first segments read."""
    stream = opened(ground).stream.fork(Live(shard.first, (), {}, {}, {}), UNBOUNDED)
    stream.feed(shard.calibration)
    return stream.live()


def advance(
    ground: Ground,
    live: Live,
    at: int,
    types: Sequence[Mapping],
    solutions: Mapping[str, Solution],
) -> Live:
    """The live tensors after segment `at`; `types` are those of all shards, `solutions` of layers in it."""
    stream = _forked(ground, live, types)
    for name, solution in solutions.items():
        stream.quantize(name, solution)
    if at:
        stream.free(stream.segments[at - 1].frees)
    stream.run(stream.segments[at])
    return stream.live()


def types_of(live: Live) -> Mapping:
    """What is known of the live tensors."""
    return live.types


def summed(
    ground: Ground, live: Live, types: Sequence[Mapping], tap: Tap, shard: Shard, samples: int
) -> InputStats | None:
    """The statistics of one tap over one shard."""
    recipe, engine = ground.recipe, opened(ground).engine
    stream = _forked(ground, live, types)
    sampling = Sampling(recipe.seed, samples, recipe.shards)
    total = ShardSum(tap, sampling, engine.backend.xp, shard.number)
    with single_threaded_blas():
        fill(total, stream, shard.masks, engine)
        return total.stats()


def solved(ground: Ground, layer: Layer, grid: Grid, shards: Sequence[InputStats | None]) -> Solution:
    """One layer on the statistics of all shards, added in order."""
    stats = of_shards(shards) if shards else None
    here = opened(ground)
    return solve(here.model, layer, stats, grid, (ground.recipe, here.engine))


def energy(shards: Sequence[InputStats | None]) -> float | None:
    """That of the drift of a layer's input; None where no row was seen."""
    stats = of_shards(shards) if shards else None
    if stats is None:
        return None
    return stats.drift.energy if stats.drift else 0.0


def _forked(ground: Ground, live: Live, types: Sequence[Mapping]) -> Stream:
    return opened(ground).stream.fork(live.agreed(types), UNBOUNDED)


def outline(live: Live) -> Live:
    """The same without its tensors: what is known of them."""
    return replace(live, arrays={}, entries=())
