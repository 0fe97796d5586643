"""Inference where it can follow a model, and what the model declares where it cannot."""

import onnx
import pytest
from graphs import model, weight

from comq_onnx.graph.inferred import inferred
from comq_onnx.graph.precision import element_types
from comq_onnx.latency.alone import declared_dims


def linear(rows: int) -> onnx.ModelProto:
    """Its weight of 16 rows, an output besides, is declared to have `rows` of them."""
    text = f"g (float[2,16] x) => (float[2,8] y, float[{rows},8] w) {{ h = Relu(x) y = MatMul(h, w) }}"
    return model(text, w=weight(16, 8))


def test_inference_adds_to_what_is_declared():
    assert [value.name for value in inferred(linear(16)).graph.value_info] == ["h"]
    assert declared_dims(linear(16))["h"] == (2, 16)


def test_declared_shapes_that_contradict_the_network_are_all_there_is():
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(linear(6))
    assert declared_dims(linear(6)) == {"x": (2, 16), "y": (2, 8), "w": (6, 8)}
    assert element_types(linear(6))["y"] == onnx.TensorProto.FLOAT
