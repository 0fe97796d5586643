"""Taps: the activations that layers read, and how their rows are taken from them.

Layers that read the same tensor in the same way (the query, key and value projections of an attention) share
a tap, and so one Gram matrix.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from comq_onnx.errors import ComqError, NotFiniteError, NotFinitePairError
from comq_onnx.records import ConvGeometry, Layer
from comq_onnx.stats.patches import POSITIONS, output_size, patches, sample_positions

ROWS_PER_INPUT = 16
"""Patches wanted for each row of a convolution's weight, where there are few samples."""
ROWS_AT_LEAST = 8192
"""Patches wanted whatever the weight."""


@dataclass(frozen=True)
class Tap:
    """One tensor, one way to read it, and the layers that do."""

    tensor: str
    kind: str
    """``dense`` (the last axis is contracted), ``left`` (the last but one) or ``conv``."""
    batch: tuple[int, ...]
    """Leading dimensions of a batched weight; empty for all others."""
    geometry: ConvGeometry | None
    groups: int
    rows: int
    layers: tuple[str, ...]
    residual: str = ""
    """The tensor that the output of the layers is added to, if its drift counts"""
    cols: int = 0
    """Output channels of a group, where there is a residual"""


def taps_of(layers: Sequence[Layer], residuals: Mapping[str, str] | None = None) -> list[Tap]:
    """The taps of all layers that see activations, in the order of the first layer of each.

    `residuals` names the tensor that a layer's output is added to, by layer name.

    Not tapped: layers inside subgraphs, whose activations are no tensors of the main graph, and gathers,
    whose input is an index.
    """
    found: dict[tuple, list[str]] = {}
    for layer in layers:
        layout = layer.layout
        if layer.in_subgraph or layout.kind == "gather":
            continue
        kind = {"matmul": "dense", "matmul_left": "left"}.get(layout.kind, "conv")
        batch = () if kind == "conv" else layout.shape[:-2]
        residual = (residuals or {}).get(layer.name, "")
        read = (layer.input, kind, batch, layer.geometry, layout.groups, layout.rows)
        found.setdefault((read, residual, layout.cols if residual else 0), []).append(layer.name)
    return [Tap(*key[0], layers=tuple(names), residual=key[1], cols=key[2]) for key, names in found.items()]


@dataclass(frozen=True)
class Sampling:
    """How many positions of a convolution are looked at in a sample, and which; and what is summed apart."""

    seed: int
    samples: int
    shards: int = 2
    """Parts of the samples, one behind the other, that are summed apart; an even number"""
    thin: int = 1
    """A convolution of more positions than are looked at is looked at in one sample of so many."""

    def shard(self, number: int) -> tuple[int, int]:
        """The numbers of a shard's first sample, and of the one behind its last."""
        first, end = (-(-at * self.samples // self.shards) for at in (number, number + 1))
        return first, end

    def positions(self, tap: Tap, total: int, sample: int) -> np.ndarray:
        """Flat output positions of one sample, of `total`."""
        if total > POSITIONS and sample % self.thin:
            return np.arange(0)
        wanted = max(ROWS_AT_LEAST, ROWS_PER_INPUT * tap.rows)
        limit = max(POSITIONS, -(-wanted // max(1, self.samples)))
        return sample_positions(total, self.seed, tap.tensor, sample, limit)


def rows_of(tap: Tap, activation: Any, sampling: Sampling, first: int, xp: Any = np) -> Iterator[Any]:
    """Rows ``(groups, n, rows)`` of one batch of activations, whose first sample has the number `first`.

    Rows and activation are arrays of `xp`. ComqError where the shape of the activation does not meet the
    weight: the layer itself is not run, so the runtime has not checked.
    """
    if not _meets(tap, activation.shape):
        raise ComqError(
            f"its shape {list(activation.shape)} does not meet the weight of '{tap.layers[0]}', "
            f"which sums over {tap.rows} inputs in {tap.groups} group(s)",
            where=f"tensor '{tap.tensor}'",
            fix="check the shapes of the calibration data",
        )
    if tap.geometry is not None:
        for i, image in enumerate(activation):
            total = math.prod(output_size(image.shape[1:], tap.geometry))
            where = sampling.positions(tap, total, first + i)
            if len(where) or not total:
                yield patches(image, tap.geometry, where, xp)
        return
    if tap.kind == "left":
        activation = activation[:, None] if activation.ndim == 1 else activation
        activation = activation.swapaxes(-1, -2)
    yield _grouped(activation, tap, xp)


def outputs_of(tap: Tap, values: Any, sampling: Sampling, first: int, xp: Any = np) -> Iterator[Any]:
    """Rows ``(groups, n, cols)`` of a tensor shaped as the layer's output, beside those of `rows_of`."""
    if tap.geometry is None:
        yield values.reshape(1, -1, tap.cols)
        return
    for i, image in enumerate(values):
        channels, total = len(image), math.prod(image.shape[1:])
        where = sampling.positions(tap, total, first + i)
        if total and not len(where):
            continue
        found = image.reshape(channels, total)[:, xp.asarray(where)]
        yield found.reshape(tap.groups, tap.cols, -1).swapaxes(1, 2)


def check_finite(
    tensor: str, activation: Any, place: tuple[int, int], xp: Any = np, paired: bool = False
) -> None:
    """NotFiniteError where an activation, an array of `xp`, is not finite.

    `place` is the number of the batch's first sample and how many it has. `paired` tells that the array is
    what lies between the two networks' values: NotFinitePairError then.
    """
    # A float64 sum of float32 values cannot overflow, and costs a fraction of looking at each.
    if xp is np and activation.dtype == np.float32 and activation.flags.c_contiguous:
        flat = activation.reshape(-1)
        if np.isfinite(np.vdot(flat, flat)):
            return
    with np.errstate(invalid="ignore"):  # infinities of both signs
        if activation.dtype != np.float64 and xp.isfinite(activation.sum(dtype=np.float64)):
            return
    if xp.isfinite(activation).all():
        return
    first, entries = place
    where, sample = f"sample {first}" if entries == 1 else f"samples {first} to {first + entries - 1}", first
    if activation.ndim and len(activation) == entries:
        finite = xp.isfinite(activation.reshape(entries, -1)).all(axis=1)
        sample = first + finite.tolist().index(False)
        where = f"sample {sample}"
    paired_who = "float or the quantized network"
    kind, who = (NotFinitePairError, paired_who) if paired else (NotFiniteError, "float model")
    raise kind(
        f"the {who} computes NaN or infinity",
        tensor=tensor,
        sample=sample,
        where=f"tensor '{tensor}', calibration {where}",
        fix="check the model, and that the data are preprocessed as it was trained",
    )


def _meets(tap: Tap, shape: tuple[int, ...]) -> bool:
    if tap.geometry is not None:
        kernel = tap.geometry.kernel
        channels = tap.groups * tap.rows // math.prod(kernel)
        return len(shape) == len(kernel) + 2 and shape[1] == channels
    axis = -2 if tap.kind == "left" and len(shape) > 1 else -1
    # Batch axes are compared from the last on; those that one side lacks or has as 1 are broadcast.
    pairs = zip(reversed(shape[:-2]), reversed(tap.batch), strict=False)
    return (
        len(shape) > 0
        and shape[axis] == tap.rows
        and all(have == want or 1 in (have, want) for have, want in pairs)
    )


def _grouped(activation: Any, tap: Tap, xp: Any) -> Any:
    """``[..., *batch, s, rows]`` as ``(groups, n, rows)``: batch axes of the weight become groups.

    The activation is broadcast where the weight has an entry for each group and it has not; an axis of the
    weight that is 1 meets every entry of the activation, so these are rows.
    """
    batch, rows = tap.batch, tap.rows
    if not batch or tap.groups == 1:
        return activation.reshape(1, -1, rows)
    depth = len(batch)
    lead = (1,) * max(0, depth + 2 - activation.ndim)
    activation = activation.reshape(*lead, *activation.shape)
    own = activation.shape[-2 - depth : -2]
    wide = tuple(have if want == 1 else want for want, have in zip(batch, own, strict=True))
    free = activation.shape[: -2 - depth]
    activation = xp.broadcast_to(activation, (*free, *wide, *activation.shape[-2:]))
    axes = [len(free) + i for i, want in enumerate(batch) if want != 1]
    return xp.moveaxis(activation, axes, range(len(axes))).reshape(tap.groups, -1, rows)
