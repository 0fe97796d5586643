"""Writing the weights of a large model to one data file beside it."""

from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from comq_onnx.graph.external import is_external, point_to, read_external, tensors_of
from comq_onnx.graph.tensors import stored_bytes

INLINE_BYTES = 2_000_000_000  # a message may not exceed 2**31 - 1 bytes; the rest is for the graph itself
SMALL = 1024  # below this a tensor stays in the model: shapes and scalars must be readable without the data
_ALIGN = 4096  # lets a runtime map each weight into memory


def bytes_to_write(graph: onnx.GraphProto) -> int:
    """Bytes that the tensors of `graph` take when all are stored raw."""
    return sum(stored_bytes(tensor) for tensor in tensors_of(graph))


def spill(proto: ModelProto, data: Path) -> ModelProto:
    """A light copy of `proto` whose initializers lie in the file `data`, written one tensor at a time."""
    light = ModelProto()
    _copy_but(proto, light, "graph")
    _copy_but(proto.graph, light.graph, "initializer")
    with data.open("wb") as file:
        for tensor in proto.graph.initializer:
            copy = light.graph.initializer.add()
            if stored_bytes(tensor) <= SMALL:
                copy.CopyFrom(tensor)
                copy_raw = raw_bytes(tensor) if is_external(tensor) else None
                if copy_raw is not None:
                    copy.ClearField("external_data")
                    copy.ClearField("data_location")
                    copy.raw_data = copy_raw
                continue
            copy.name, copy.data_type, copy.doc_string = tensor.name, tensor.data_type, tensor.doc_string
            copy.dims.extend(tensor.dims)
            copy.metadata_props.extend(tensor.metadata_props)
            offset, length = append(file, raw_bytes(tensor))
            point_to(copy, data.name, offset, length)
        for tensor in tensors_of(light.graph):
            if is_external(tensor) and Path(tensor.external_data[0].value).is_absolute():
                offset, length = append(file, read_external(tensor, None, stored_bytes(tensor)))
                point_to(tensor, data.name, offset, length)
    return light


def raw_bytes(tensor: TensorProto) -> bytes:
    """The values of `tensor` as the raw bytes that ONNX stores."""
    if is_external(tensor):
        return read_external(tensor, None, stored_bytes(tensor))
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data


def append(file: BinaryIO, values: bytes) -> tuple[int, int]:
    """Write `values` at the end of `file`, aligned; their offset and length."""
    file.write(b"\0" * (-file.tell() % _ALIGN))
    offset = file.tell()
    file.write(values)
    return offset, len(values)


def _copy_but(
    source: ModelProto | onnx.GraphProto, target: ModelProto | onnx.GraphProto, left_out: str
) -> None:
    for descriptor, value in source.ListFields():
        if descriptor.name == left_out:
            continue
        if isinstance(value, int | str | bytes | float | bool):
            setattr(target, descriptor.name, value)
        else:
            getattr(target, descriptor.name).MergeFrom(value)
