"""Which inputs meet a convolution's weight at an output position, and which positions are looked at.

Only the sampled positions are gathered; the whole patch tensor of a sample never exists.
"""

import math
import zlib
from typing import Any

import numpy as np

from comq_onnx.records import ConvGeometry

POSITIONS = 64
"""Positions looked at in one sample; a sample of fewer positions is seen whole.

Positions of one sample are alike, samples are not: beyond this many, another sample tells a covariance more
than the rest of this one's positions.
"""


def sample_positions(total: int, seed: int, name: str, sample: int, limit: int = POSITIONS) -> np.ndarray:
    """At most `limit` of `total` flat positions, sorted; the same for the same seed, name and sample."""
    if total <= limit:
        return np.arange(total)
    rng = np.random.default_rng((seed, zlib.crc32(name.encode()), sample))
    return np.sort(rng.choice(total, limit, replace=False))


def output_size(spatial: tuple[int, ...], geometry: ConvGeometry) -> tuple[int, ...]:
    """Spatial shape of the output for an input of spatial shape `spatial`."""
    return tuple(size for size, _ in _extents(spatial, geometry))


def patches(image: Any, geometry: ConvGeometry, positions: np.ndarray, xp: Any = np) -> Any:
    """The vectors that the rows of the weight multiply at flat output `positions`.

    `image` is one sample, ``(channels, *spatial)``, an array of `xp`; positions are on the host. The result
    is ``(groups, positions, channels / groups * prod(kernel))`` in the row order of `graph.layout`: channel
    first, kernel last. ``patches @ rows`` is the convolution's output at these positions, ``(groups,
    positions, cols)``, bias left out.
    """
    channels, *spatial = image.shape
    index, inside = _input_index(tuple(spatial), geometry, positions)
    flat = image.reshape(channels, -1)
    if flat.shape[1] == 0:
        gathered = xp.zeros((channels, *index.shape), image.dtype)
    else:
        gathered = flat[:, xp.asarray(index)]
        if not inside.all():
            gathered = xp.where(xp.asarray(inside), gathered, image.dtype.type(0))
    groups = geometry.group
    grouped = gathered.reshape(groups, channels // groups, *index.shape).swapaxes(1, 2)
    return grouped.reshape(groups, len(positions), channels // groups * index.shape[-1])


def _input_index(
    spatial: tuple[int, ...], geometry: ConvGeometry, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Flat input index of every (position, kernel tap), and whether there is one: ``(n, taps)`` each."""
    extents = _extents(spatial, geometry)
    places = np.unravel_index(positions, tuple(size for size, _ in extents))
    taps = np.unravel_index(np.arange(math.prod(geometry.kernel)), geometry.kernel)
    index = np.zeros((len(positions), len(taps[0])), np.intp)
    inside = np.ones(index.shape, bool)
    for axis, size in enumerate(spatial):
        stride, dilation, begin = geometry.strides[axis], geometry.dilations[axis], extents[axis][1]
        if geometry.transposed:
            # Output p collects input i through tap k where p = i * stride + k * dilation - begin.
            reach = places[axis][:, None] + begin - taps[axis][None] * dilation
            at, between = np.divmod(reach, stride)
            inside &= between == 0
        else:
            at = places[axis][:, None] * stride - begin + taps[axis][None] * dilation
        inside &= (at >= 0) & (at < size)
        index = index * size + at
    return np.where(inside, index, 0), inside


def _extents(spatial: tuple[int, ...], geometry: ConvGeometry) -> list[tuple[int, int]]:
    """Output size and padding at the beginning of each axis, by the ONNX rules for Conv and ConvTranspose."""
    rule = _transposed_extent if geometry.transposed else _extent
    return [rule(size, axis, geometry) for axis, size in enumerate(spatial)]


def _extent(size: int, axis: int, geometry: ConvGeometry) -> tuple[int, int]:
    stride = geometry.strides[axis]
    span = (geometry.kernel[axis] - 1) * geometry.dilations[axis] + 1
    if geometry.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = -(-size // stride)
        total = max((out - 1) * stride + span - size, 0)
        return out, total // 2 if geometry.auto_pad == "SAME_UPPER" else total - total // 2
    begin, end = _pads(axis, geometry)
    return max((size + begin + end - span) // stride + 1, 0), begin


def _transposed_extent(size: int, axis: int, geometry: ConvGeometry) -> tuple[int, int]:
    stride = geometry.strides[axis]
    extra = geometry.output_padding[axis] if geometry.output_padding else 0
    full = (size - 1) * stride + (geometry.kernel[axis] - 1) * geometry.dilations[axis] + 1 + extra
    same = geometry.auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if geometry.output_shape or same:
        wanted = (
            geometry.output_shape[-len(geometry.kernel) :][axis] if geometry.output_shape else size * stride
        )
        # Where the input reaches less far than is wanted, the runtime does not pad at the beginning.
        total = max(full - wanted, 0)
        begin = total // 2 if geometry.auto_pad == "SAME_UPPER" else total - total // 2
        return (wanted if geometry.output_shape else full - total), begin
    begin, end = _pads(axis, geometry)
    return full - begin - end, begin


def _pads(axis: int, geometry: ConvGeometry) -> tuple[int, int]:
    if geometry.auto_pad == "VALID":
        return 0, 0
    return geometry.pads[axis], geometry.pads[axis + len(geometry.kernel)]
