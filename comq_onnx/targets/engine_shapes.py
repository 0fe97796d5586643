"""The shapes an engine of TensorRT is built for: a least, a usual and a largest size of each dynamic axis."""

from collections.abc import Mapping, Sequence

import onnx

UNKNOWN_BATCH, UNKNOWN_SIZE = (1, 1, 8), (1, 128, 512)
"""Least, usual and largest size of a dynamic axis, the first or another, where no sample says better."""
Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Shapes that were fed, by input name"""
Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Least, usual and largest shape, by input name"""


def profile(proto: onnx.ModelProto, fed: Shapes) -> Profile:
    """What the inputs with dynamic axes range over, which is what was fed; the other inputs are left out."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    ranges: Profile = {}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in stored or all(dim.HasField("dim_value") for dim in dims):
            continue
        seen = [shape for shape in fed.get(value.name, ()) if len(shape) == len(dims)]
        axes = [
            (dim.dim_value,) * 3 if dim.HasField("dim_value") else _axis(axis, seen)
            for axis, dim in enumerate(dims)
        ]
        least, usual, most = zip(*axes, strict=True)
        ranges[value.name] = least, usual, most
    return ranges


def shape_flags(proto: onnx.ModelProto, fed: Shapes) -> list[str]:
    """``--shapes`` of trtexec, or least, usual and largest ones; none where no axis is dynamic."""
    ranges = profile(proto, fed)
    if not ranges:
        return []
    least, usual, most = (
        ",".join(f"{name}:{'x'.join(map(str, shapes[which]))}" for name, shapes in ranges.items())
        for which in range(3)
    )
    if least == most:
        return [f"--shapes={usual}"]
    return [f"--minShapes={least}", f"--optShapes={usual}", f"--maxShapes={most}"]


def _axis(axis: int, seen: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Least, usual (the middle one) and largest size of a dynamic axis."""
    if not seen:
        return UNKNOWN_SIZE if axis else UNKNOWN_BATCH
    sizes = sorted(shape[axis] for shape in seen)
    return sizes[0], sizes[len(sizes) // 2], sizes[-1]
