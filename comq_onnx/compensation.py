"""Biases beyond a layer's channels, measured in a stream: for each position, and behind residual Adds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import GraphProto

from comq_onnx.graph.residual import Block, residual_adds
from comq_onnx.graph.tensors import FLOAT_DTYPES
from comq_onnx.records import BlockBias, Layer, Solution
from comq_onnx.resume import Journal
from comq_onnx.run.stand_ins import broadcast_bias
from comq_onnx.run.stream import QUANTIZED, Stream
from comq_onnx.solve.position import LEAST, position_part, share
from comq_onnx.stats.mask import keep_rows
from comq_onnx.stats.pairs import wanted
from comq_onnx.stats.positions import PositionMeans, halves_of, position_means

LIMIT = 1 << 20
"""Numbers in a bias for each position of a layer, at most."""
INAUDIBLE = 1e-8
"""A block's bias of a smaller share of the output's energy is rounding."""
FROZEN = (
    "--bias position: the file takes samples of the calibration samples' shape only, though the model takes "
    "others: its biases are for these positions"
)
BLIND = "they see no activations"
BEFORE = "as an earlier run found"
NAMED = 5
"""Layers named in a note."""


class PositionBiases:
    """Gives layers a bias for each position, and remembers why others have none.

    Parameters
    ----------
    stream
        Where the layers' inputs are live when they are asked for.
    masked
        Whether an input marks padding.
    fixed
        Whether the graph takes samples of one shape only.
    """

    def __init__(self, stream: Stream, masked: bool, fixed: bool) -> None:
        self._stream, self._masked, self._fixed = stream, masked, fixed
        self._given = 0
        self._means: dict[str, PositionMeans | str] = {}
        self._why: dict[str, list[str]] = {}

    def take(self, layer: Layer, solution: Solution) -> None:
        """Count a layer that an earlier run solved."""
        if solution.position_bias is not None:
            self._given += 1
        else:
            why = BLIND if solution.bias is None or layer.in_subgraph else BEFORE
            self._why.setdefault(why, []).append(layer.name)

    def improve(self, layer: Layer, solution: Solution, residual: str = "") -> Solution:
        """The solution with its `position_bias`. The stream already computes with `solution`.

        `residual` names the live tensor, in the shape of the output, whose drift the channel bias makes up
        for besides; empty for none.
        """
        found = self._found(layer, solution, residual)
        if isinstance(found, str):
            self._why.setdefault(found, []).append(layer.name)
            return solution
        self._given += 1
        return replace(solution, position_bias=found)

    def forget(self) -> None:
        """Drop what was summed of inputs that are live no longer."""
        self._means.clear()

    def notes(self) -> tuple[str, ...]:
        """What the file has lost, and which layers keep the channel bias, and why."""
        kept = [
            f"--bias position: {len(names)} layer(s) keep the channel bias, {why}: {listed(names)}"
            for why, names in self._why.items()
        ]
        return (*([] if self._fixed or not self._given else [FROZEN]), *kept)

    def _mean_of(self, tensor: str) -> PositionMeans | str:
        if tensor not in self._means:
            self._means[tensor] = position_means(self._stream, tensor)
        return self._means[tensor]

    def _found(self, layer: Layer, solution: Solution, residual: str) -> np.ndarray | str:
        if solution.bias is None or layer.in_subgraph:
            return BLIND
        if self._masked:
            return "padding is masked, and positions hold other tokens in every sample"
        batch, shape = layer.layout.shape[:-2], self._stream.shape(layer.input)
        rank = len(shape or ())
        if shape and layer.geometry is None and (rank < 3 or (batch and len(batch) + 2 >= rank)):
            return "their output has no axis of positions behind that of the samples"
        means, beside = self._mean_of(layer.input), self._mean_of(residual) if residual else None
        if isinstance(means, str):
            return means
        if isinstance(beside, str):
            return beside
        gaps = self._stream.gap_of(layer.name, means.quantized, means.gap)
        if beside:
            gaps = gaps + beside.gap
        channel = broadcast_bias(solution.bias, layer).astype(np.float64)
        if gaps[0].size == channel.size:
            return "their output has one position only"
        if gaps[0].size > LIMIT:
            return f"it would hold more than {LIMIT:,} numbers"
        part, s = position_part((gaps[0], gaps[1]), means.sizes, channel)
        return part if s else "the two halves of the samples do not agree on more"


class BlockBiases:
    """Levels the outputs of residual Adds, and remembers by how much.

    Parameters
    ----------
    graph, layers
        The main graph of the stream and all layers; none where no block is to be levelled.
    journal
        What an earlier run measured is taken from it, and it is given the rest.
    """

    def __init__(self, graph: GraphProto, layers: Sequence[Layer], journal: Journal | None = None) -> None:
        blocks, self._unknown = residual_adds(graph, layers)
        self._blocks, self._journal = {block.output: block for block in blocks}, journal
        self._known: dict[str, BlockBias | None] = {}
        """By tensor"""
        for block in blocks:
            if journal and (found := journal.get_block(block.node)):
                (self._known[block.output],) = found

    @property
    def done(self) -> bool:
        """Whether it is known of all blocks what is added."""
        return len(self._known) == len(self._blocks)

    @property
    def added(self) -> tuple[BlockBias, ...]:
        """What is added, in order of execution."""
        return tuple(bias for tensor in self._blocks if (bias := self._known.get(tensor)))

    @property
    def stops(self) -> tuple[str, ...]:
        """The tensors that are levelled; segments have to end there."""
        return tuple(self._blocks)

    def level(self, stream: Stream, tensor: str, masks: Sequence[np.ndarray]) -> None:
        """Give the quantized network's output of a block, live in `stream`, the float network's mean."""
        block = self._blocks[tensor]
        if tensor not in self._known:
            self._known[tensor] = block_bias(stream, block, masks)
            if self._journal:
                self._journal.put_block(block.node, self._known[tensor])
        if bias := self._known[tensor]:
            stream.shift(tensor, bias.values)

    def notes(self) -> tuple[str, ...]:
        """What was done, and why not more."""
        added = self.added
        size = sum(bias.values.size * FLOAT_DTYPES[bias.dtype].itemsize for bias in added)
        of = f"{len(added)} of {len(self._blocks)} residual Adds"
        note = f"--bias block adds {size:,} bytes behind {of}"
        if len(added) < len(self._blocks):
            note += "; the others have the float network's mean already, or samples do not agree on it"
        if self._unknown:
            note += f"; no axis of channels is known for {listed(self._unknown)}"
        return (note,)


def block_bias(stream: Stream, block: Block, masks: Sequence[np.ndarray]) -> BlockBias | None:
    """What a block's output lacks on average in the quantized network, for each channel, by both halves.

    None where the halves of the samples do not agree on it, or it is nothing but rounding. Tokens that the
    masks mark as padding are left out. NotPairedError where the two networks' outputs differ in shape.
    """
    shape = stream.shape(block.output)
    if shape is None and block.axis >= 0:
        return None
    sums: list[np.ndarray | float] = [0.0, 0.0]
    counts, energy = [0, 0], 0.0
    for batch, half, part in halves_of(stream):
        mask = masks[batch][part] if masks else None
        value = stream.value(block.output, batch, QUANTIZED)
        x = _rows(wanted(stream, block.output, batch, value)[part], block.axis, mask)
        gap = x - _rows(value[part], block.axis, mask)
        sums[half] = sums[half] + gap.sum(axis=0)
        counts[half] += len(gap)
        energy += float((x**2).sum())
    if min(counts) == 0:
        return None
    first, second = (np.asarray(total) / count for total, count in zip(sums, counts, strict=True))
    s, whole = share(first, second), np.average([first, second], axis=0, weights=counts)
    if s < LEAST or np.vdot(whole, whole) * sum(counts) <= INAUDIBLE * energy:
        return None
    behind = (-1 - block.axis) if block.axis < 0 else len(shape or ()) - 1 - block.axis
    return BlockBias(block.node, (s * whole).reshape(-1, *(1,) * behind), block.dtype)


def _rows(value: np.ndarray, axis: int, mask: np.ndarray | None) -> np.ndarray:
    """``(n, channels)`` float64."""
    if mask is not None and axis == -1:
        value = keep_rows(value, mask)
    channels = value.shape[axis]
    return np.moveaxis(value.astype(np.float64), axis, -1).reshape(-1, channels)


def listed(names: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more
