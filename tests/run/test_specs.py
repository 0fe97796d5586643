"""Inputs as a file declares them."""

import numpy as np
from graphs import model

from comq_onnx.run.session import TensorSpec
from comq_onnx.run.specs import input_specs


def test_names_types_and_sizes():
    proto = model(
        "g (float16[N, 3] x, int64[2] k, float s, float[3] w) => (float16[N, 3] y) { y = Relu(x) }",
        w=np.ones(3, np.float32),
    )
    assert input_specs(proto) == (
        TensorSpec("x", np.dtype(np.float16), (None, 3)),
        TensorSpec("k", np.dtype(np.int64), (2,)),
        TensorSpec("s", np.dtype(np.float32), ()),
    )


def test_a_size_of_minus_one_is_open():
    """As PaddlePaddle's exporter writes it."""
    proto = model("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert input_specs(proto)[0].shape == (None, 3)
