"""Weights that a session is given beside its message: where they lie in files, or as arrays."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from comq_onnx.graph.cut import reads_of
from comq_onnx.graph.external import check_external, external_file, is_external, point_to
from comq_onnx.graph.tensors import stored_bytes

MAPPED_TYPES = frozenset(
    (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)
    + (TensorProto.INT32, TensorProto.INT64)
)
"""Element types of external tensors that NumPy and the runtime both know"""


def stub(name: str, values: np.ndarray) -> TensorProto:
    """Stands in a proto for an initializer that `session.open_session` is given."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=values.shape)
    point_to(tensor, "given", 0, values.nbytes)
    return tensor


def filled(model: ModelProto, given: Mapping[str, np.ndarray]) -> ModelProto:
    """A copy in which the stubs hold their values."""
    whole = ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        if tensor.name in given:
            tensor.CopyFrom(numpy_helper.from_array(given[tensor.name], tensor.name))
    return whole


def mapped_values(
    model: ModelProto, external: Sequence[TensorProto], given: Mapping[str, np.ndarray], device: str
) -> dict[str, np.ndarray] | None:
    """External initializers by name, mapped into memory from their files: pages that can be taken back.

    Those that are `given` are as they are. Those that nothing reads are left out: the runtime forgets
    them, and refuses to be given them.

    None where the runtime cannot be given all of them so.
    """
    named = {tensor.name: tensor for tensor in model.graph.initializer if is_external(tensor)}
    plain = all(tensor.data_type in MAPPED_TYPES and math.prod(tensor.dims) for tensor in external)
    if len(named) < len(external) or not plain or (external and device != "cpu"):
        return None
    found, read = {}, {output.name for output in model.graph.output}
    read = read.union(*map(reads_of, model.graph.node))
    for name, tensor in named.items():
        if name not in read:
            continue
        if name in given:
            found[name] = given[name]
            continue
        path, offset, _ = external_file(tensor, None)
        check_external(tensor, None, stored_bytes(tensor))
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if offset % dtype.itemsize:
            return None
        found[name] = np.memmap(path, dtype, "r", offset, tuple(tensor.dims))
    return found
