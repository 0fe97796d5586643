"""Memory that solving takes besides sums and live activations: sessions, kept statistics, room to work in."""

from collections.abc import Mapping, Sequence

from comq_onnx.evaluate.work import Shapes
from comq_onnx.graph.cut import Segment, reads_of
from comq_onnx.records import Layer
from comq_onnx.stats.taps import Tap, taps_of

SOLVING = 8
"""Arrays of a layer's Gram and of its weight, in float64, that the solver has at once: 6.4 were measured"""
FLOAT_SESSION, QUANTIZED_SESSION = 2, 8
"""Times a segment's weights: as mapped or made of codes, as packed by the runtime, and what making takes"""
ITEM = 8
WARM = 160 << 20
"""Bytes that a process comes to hold by compiling and loading what it solves with"""


def workspace(
    segments: Sequence[Segment],
    weights: Mapping[str, int],
    shapes: Shapes,
    threads: int,
    paired: bool,
) -> int:
    """Most bytes at once, over the segments; `weights` are those of initializers by name."""
    most = 0
    for segment in segments:
        read = {name for node in segment.nodes for name in reads_of(node) if name in weights}
        made = [name for node in segment.nodes for name in node.output if name in shapes]
        networks = FLOAT_SESSION + (QUANTIZED_SESSION if paired else 0)
        inside = sum(shapes[name].bytes for name in made) * (2 if paired else 1)
        run = networks * sum(weights[name] for name in read) + inside
        taps = taps_of(segment.layers, segment.residuals if paired else None)
        side_by_side = sorted((solving_bytes(layer) for layer in segment.layers), reverse=True)[:threads]
        most = max(most, run, sum(kept_bytes(tap, paired) for tap in taps) + sum(side_by_side))
    return most


def solving_bytes(layer: Layer) -> int:
    """What solving one layer takes beside its statistics."""
    layout = layer.layout
    return SOLVING * ITEM * layout.groups * layout.rows * (layout.rows + layout.cols)


def kept_bytes(tap: Tap, paired: bool) -> int:
    """Statistics of a tap once they are summed: of all samples and of one half."""
    square = tap.groups * tap.rows**2
    crosses = square + (tap.groups * tap.rows * tap.cols if tap.residual else 0)
    return 2 * ITEM * (square + (crosses if paired else 0))
