"""A model's inputs as its file declares them, before any session is opened."""

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto

from comq_onnx.graph.tensors import numpy_dtype
from comq_onnx.run.session import TensorSpec


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Name, element type and shape of each input that is not a constant (IR 3 lists constants as inputs)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(info) for info in model.graph.input if info.name not in constants)


def _spec(info: ValueInfoProto) -> TensorSpec:
    tensor = info.type.tensor_type
    if tensor.elem_type == TensorProto.UNDEFINED:
        return TensorSpec(info.name, np.dtype(object), ())
    text = tensor.elem_type == TensorProto.STRING
    dtype = np.dtype(np.str_) if text else numpy_dtype(tensor.elem_type, info.name)
    # Some exporters write -1 where a size is open.
    known = (dim.HasField("dim_value") and dim.dim_value >= 0 for dim in tensor.shape.dim)
    shape = tuple(d.dim_value if ok else None for d, ok in zip(tensor.shape.dim, known, strict=True))
    return TensorSpec(info.name, dtype, shape)
