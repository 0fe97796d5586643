"""What the kernels of onnxruntime do with 8-bit products on this processor."""

from functools import cache

import numpy as np
import onnxruntime
from graphs import model


@cache
def adds_in_16_bits() -> bool:
    """Whether the sum of two products of uint8 and int8 codes overflows, as on x64 without VNNI."""
    proto = model("g (uint8[1, 2] a, int8[2, 1] b) => (int32[1, 1] y) { y = MatMulInteger(a, b) }")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": np.full((1, 2), 255, np.uint8), "b": np.full((2, 1), 127, np.int8)})
    return int(found[0, 0]) != 2 * 255 * 127
