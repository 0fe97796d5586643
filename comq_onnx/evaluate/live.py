"""What a run will hold and execute, from the graph and the shapes of its tensors: `run.stream` on paper."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from comq_onnx.evaluate.work import Shapes
from comq_onnx.graph.cut import Segment
from comq_onnx.stats.tap_sum import HALVES, sum_bytes
from comq_onnx.stats.taps import Tap, taps_of

NETWORKS = 2


@dataclass(frozen=True)
class Lived:
    """Activations of the sequential stream over all batches."""

    peak: int
    """Most bytes at once, in memory and on disk together"""
    node_runs: int
    """Nodes executed, over all batches and both networks"""


def lived(segments: Sequence[Segment], shapes: Shapes, inputs: Iterable[str], batches: int) -> Lived:
    """Walk through the segments as `run.stream.Stream` does; tensors of unknown shape count as nothing.

    `inputs` are those of the graph; each batch has tensors of the shapes given.
    """
    read = {name for segment in segments for name in segment.reads}
    read |= {layer.input for segment in segments for layer in segment.layers}
    sizes = {name: bytes_of(shapes, name) for name in inputs if name in read}
    held = peak = batches * sum(sizes.values())
    runs = 0
    for segment in segments:
        if segment.nodes and segment.keeps:
            times = 1 if segment.shared else NETWORKS
            made = {name: times * bytes_of(shapes, name) for name in segment.keeps}
            grows = sum(made.values())
            sizes |= made
            falls = sum(sizes.pop(name) for name in segment.last_reads)
            peak = max(peak, held + grows, held + batches * grows - (batches - 1) * falls)
            held += batches * (grows - falls)
            runs += len(segment.nodes) * times * batches
        held -= batches * sum(sizes.pop(name, 0) for name in segment.frees)
    return Lived(peak, runs)


def bytes_of(shapes: Shapes, name: str) -> int:
    """Of one tensor of one batch; 0 where its shape is not known."""
    return shapes[name].bytes if name in shapes else 0


def summed_at_once(segments: Sequence[Segment], limit: int, paired: bool = True, shards: int = HALVES) -> int:
    """Most bytes of sums at a time where each segment is summed by itself, within `limit` where that goes.

    `paired` is whether the quantized network's inputs are summed beside the float one's.
    """
    most = 0
    for segment in segments:
        taps = taps_of(segment.layers, segment.residuals if paired else None)
        needs = [sum_bytes(tap, np, paired, shards) for tap in taps]
        most = max(most, min(sum(needs), max(limit, *needs)) if needs else 0)
    return most


def passes_of(taps: Sequence[Tap], shapes: Shapes, limit: int, shards: int = HALVES) -> list[list[Tap]]:
    """Taps whose sums and tensors fit in memory together, as `stats.collect` shares them out."""
    passes: list[list[Tap]] = []
    for tap in taps:
        here = [*passes[-1], tap] if passes else [tap]
        if not passes or sums_bytes(here, shards) + tensor_bytes(here, shapes) > limit:
            passes.append([])
        passes[-1].append(tap)
    return passes


def sums_bytes(taps: Sequence[Tap], shards: int = HALVES) -> int:
    """Sums of these taps on the float network's inputs."""
    return sum(sum_bytes(tap, np, shards=shards) for tap in taps)


def tensor_bytes(taps: Sequence[Tap], shapes: Shapes) -> int:
    """What these taps read of one batch."""
    return sum(bytes_of(shapes, name) for name in {tap.tensor for tap in taps})
