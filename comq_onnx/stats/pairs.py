"""What layers see in the quantized network, and how the float network's inputs differ, from a stream."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from comq_onnx.backends.engine import Engine, single_threaded_blas
from comq_onnx.errors import NotPairedError
from comq_onnx.graph.cut import Segment
from comq_onnx.records import InputStats, Layer
from comq_onnx.run.stream import FLOAT, FLOATS, QUANTIZED, Stream
from comq_onnx.stats.patches import output_size
from comq_onnx.stats.tap_sum import ShardSum, Taken, TapSum, sum_bytes
from comq_onnx.stats.taps import Sampling, Tap, taps_of

MATRIX = 2


def collect_pairs(
    stream: Stream,
    segment: Segment,
    sampling: Sampling,
    mask: Sequence[np.ndarray],
    how: tuple[Engine, int],
) -> dict[str, InputStats | None]:
    """Statistics by layer of the layers of `segment`, which `stream` has run.

    `mask` holds the mask of each batch, or nothing. `how` is what sums, and the bytes that sums may take:
    where they need more, the tensors are gone through more than once.
    """
    engine, limit = how
    found: dict[str, InputStats | None] = {}
    taps = taps_of(segment.layers, residuals_of(stream, segment))
    for group in _groups(taps, engine.backend.xp, limit, sampling.shards):
        sums = [TapSum(tap, sampling, engine.backend.xp) for tap in group]
        # The shards of the samples share nothing, and neither do taps.
        work = [shard for tap_sum in sums for shard in tap_sum.shards]
        with single_threaded_blas():
            list(engine.map(lambda shard: fill(shard, stream, mask, engine), work))
        for tap_sum in sums:
            found |= dict.fromkeys(tap_sum.tap.layers, tap_sum.stats())
    return found


def residuals_of(stream: Stream, segment: Segment) -> dict[str, str]:
    """The residuals of `segment` that are made up for: those that drift and have the output's shape."""
    return {
        layer.name: segment.residuals[layer.name]
        for layer in segment.layers
        if layer.name in segment.residuals and _fits(layer, segment.residuals[layer.name], stream)
    }


def fill(shard: ShardSum, stream: Stream, mask: Sequence[np.ndarray], engine: Engine) -> None:
    """Add all batches that have samples of this shard, in order."""
    name, xp = shard.tap.tensor, engine.backend.xp
    ends = accumulate(stream.entries, initial=stream.first)
    for batch, (first, entries) in enumerate(zip(ends, stream.entries, strict=False)):
        if not shard.meets(first, entries):
            continue
        value = stream.value(name, batch, QUANTIZED)
        values, floats, gap, residual = {name: xp.asarray(value)}, None, None, shard.tap.residual
        if residual or not stream.agrees(name):
            floats = {name: xp.asarray(wanted(stream, name, batch, value))}
        if residual:
            got = stream.value(residual, batch, QUANTIZED)
            gap = xp.asarray(wanted(stream, residual, batch, got) - got)
        here = mask[batch] if mask else None
        shard.add(Taken(values, () if floats else (name,), here, first, entries, floats, gap))


def wanted(stream: Stream, name: str, batch: int, value: np.ndarray) -> np.ndarray:
    """The float network's tensor beside the quantized one's; NotPairedError where their shapes differ."""
    beside = stream.value(name, batch, FLOAT)
    if beside.shape != value.shape:
        raise NotPairedError(
            f"'{name}' is {list(value.shape)} in the quantized network and {list(beside.shape)} in the "
            "float one",
            fix=FLOATS,
        )
    return beside


def _fits(layer: Layer, residual: str, stream: Stream) -> bool:
    """Whether a residual drifts and has the shape of the layer's output, as far as is known."""
    kind, shape, read = layer.layout.kind, stream.shape(residual), stream.shape(layer.input)
    if stream.agrees(residual) or not shape or not read:
        return False
    if kind == "matmul":
        dense = layer.layout.groups == 1 and len(layer.layout.shape) == MATRIX
        return dense and shape[-1] == layer.layout.cols and shape[:-1] == read[:-1]
    if kind != "conv" or layer.geometry is None or len(shape) != len(read) or len(read) <= MATRIX:
        return False
    sizes = read[2:]
    known = [size for size in sizes if size is not None]
    return (
        len(known) == len(sizes)
        and shape[1] == layer.layout.groups * layer.layout.cols
        and shape[2:] == output_size(tuple(known), layer.geometry)
    )


def _groups(taps: Sequence[Tap], xp: object, limit: int, shards: int) -> list[list[Tap]]:
    """Taps whose sums fit in memory together, in order."""
    groups: list[list[Tap]] = []
    held = limit + 1
    for tap in taps:
        need = sum_bytes(tap, xp, True, shards)
        if held + need > limit:
            groups.append([])
            held = 0
        groups[-1].append(tap)
        held += need
    return groups
