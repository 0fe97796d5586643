"""Constants of a graph whose values stay where they are until somebody asks for them.

GraphSurgeon keeps the values of a constant as an array or as a `LazyValues`. The kinds of lazy values here
never cache what they load, so at most one weight is held as an array at a time, and they carry every
element type: read them with `values_of`, never with ``constant.values`` (which caches, and which breaks
the export of sub-byte types).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from comq_onnx.errors import ComqError
from comq_onnx.graph.external import is_external, read_external

Tensor = Any
"""A `gs.Variable` or `gs.Constant`; GraphSurgeon annotates a base class that lacks their attributes."""

_CODE_DTYPES: dict[int, np.dtype] = {
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT4: np.dtype(ml_dtypes.int4),
    TensorProto.UINT4: np.dtype(ml_dtypes.uint4),
    TensorProto.INT2: np.dtype(ml_dtypes.int2),
    TensorProto.UINT2: np.dtype(ml_dtypes.uint2),
}
FLOAT_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}
_BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}


class Stored(LazyValues):
    """Values that lie in a `TensorProto`, in memory or in an external file below `folder`."""

    def __init__(self, tensor: TensorProto, folder: Path | None = None) -> None:
        self.tensor = tensor
        self.folder = folder
        self.shape = tuple(tensor.dims)
        self.dtype = numpy_dtype(tensor.data_type, tensor.name)
        self.nbytes = stored_bytes(tensor)

    def load(self) -> np.ndarray:
        if not is_external(self.tensor):
            return numpy_helper.to_array(self.tensor)
        inline = TensorProto(name=self.tensor.name, data_type=self.tensor.data_type, dims=self.shape)
        inline.raw_data = read_external(self.tensor, self.folder, self.nbytes)
        return numpy_helper.to_array(inline)


class SparseStored(LazyValues):
    """Values of a sparse tensor; loaded dense."""

    def __init__(self, sparse: onnx.SparseTensorProto, folder: Path | None = None) -> None:
        self.sparse = sparse
        self.folder = folder
        self.shape = tuple(sparse.dims)
        self.dtype = numpy_dtype(sparse.values.data_type, sparse.values.name)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    @property
    def tensor(self) -> TensorProto:
        return numpy_helper.from_array(self.load(), self.sparse.values.name)

    def load(self) -> np.ndarray:
        values = Stored(self.sparse.values, self.folder).load()
        index = Stored(self.sparse.indices, self.folder).load()
        dense = np.zeros(self.shape, dtype=values.dtype)
        if index.ndim == 1:
            dense.reshape(-1)[index] = values
        else:
            dense[tuple(index.T)] = values
        return dense


class Derived(LazyValues):
    """Values computed from other constants each time they are asked for: a transposed weight, say."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype, compute: Callable[[], np.ndarray]) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self.compute = compute

    @property
    def tensor(self) -> TensorProto:
        return numpy_helper.from_array(self.load())

    def load(self) -> np.ndarray:
        return self.compute()


def values_of(constant: gs.Constant) -> np.ndarray:
    """The values of `constant` in its own element type, loaded now and not kept. May be read-only."""
    values = constant._values
    return values if isinstance(values, np.ndarray) else values.load()


def dtype_of(constant: gs.Constant) -> np.dtype:
    """Element type of `constant`, without loading it."""
    values: Any = constant._values
    return np.dtype(values.dtype)


def shape_of(constant: gs.Constant) -> tuple[int, ...]:
    """Shape of `constant`, without loading it."""
    return tuple(int(size) for size in constant._values.shape)


def bytes_of(constant: gs.Constant) -> int:
    """Bytes that `constant` takes in a file, without loading it."""
    return int(constant._values.nbytes)


def quantized_tensor(name: str, codes: np.ndarray, elem_type: int) -> gs.Constant:
    """A constant that holds integer `codes` in `elem_type`: (u)int8, (u)int4 or (u)int2.

    Sub-byte codes are packed as ONNX asks. `codes` must be in the range of the element type.
    """
    packed = np.asarray(codes).astype(_CODE_DTYPES[elem_type])
    return gs.Constant(name, Stored(numpy_helper.from_array(packed, name)))


def float_tensor(name: str, values: np.ndarray, dtype: str) -> gs.Constant:
    """A constant that holds `values` rounded to `dtype`: float32, float16, bfloat16 or float64.

    ComqError where the type does not hold them.
    """
    values = np.asarray(values)
    with np.errstate(over="ignore"):
        rounded = values.astype(FLOAT_DTYPES[dtype])
    if not np.isfinite(rounded).all() and np.isfinite(values).all():
        raise ComqError(
            f"numbers up to {np.abs(values).max():g} are to be stored as {dtype}, which does not hold them",
            where=f"tensor {name!r}",
            fix="leave its node out with --nodes-to-exclude, or use --bias none",
        )
    return gs.Constant(name, Stored(numpy_helper.from_array(rounded, name)))


def message_of(constant: gs.Constant) -> TensorProto:
    """The message that `quantized_tensor`, `float_tensor` and `array_tensor` keep the values in."""
    values: Any = constant._values
    return values.tensor


def array_tensor(name: str, values: np.ndarray) -> gs.Constant:
    """A constant that holds `values` in their own element type."""
    return gs.Constant(name, Stored(numpy_helper.from_array(np.asarray(values), name)))


def numpy_dtype(elem_type: int, name: str = "") -> np.dtype:
    """NumPy (or ml_dtypes) type of an ONNX element type; ComqError naming the tensor if there is none."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        raise ComqError(
            f"its element type {elem_type} is not known",
            where=f"tensor {name!r}",
            fix="export the model again",
        ) from None


def stored_bytes(tensor: TensorProto) -> int:
    """Bytes that the values of `tensor` take when stored raw, sub-byte types packed."""
    bits = _BITS.get(tensor.data_type)
    count = math.prod(tensor.dims)
    if bits is not None:
        return -(-count * bits // 8)
    return count * numpy_dtype(tensor.data_type, tensor.name).itemsize
