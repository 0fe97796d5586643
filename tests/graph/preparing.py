"""Build a model from ONNX text, prepare it, and hold the result to the original."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.locate import nodes_of
from comq_onnx.graph.prepare import prepare

RNG = np.random.default_rng(0)


def rand(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def model(body, inputs, outputs, opset=17, **weights):
    """A model from ONNX text with `weights` as its initializers."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\nnet ({inputs}) => ({outputs}) {{ {body} }}'
    parsed = parser.parse_model(text)
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return parsed


def ops(ready):
    return [node.op for node, _ in nodes_of(ready)]


def check(proto, feeds, same, opset=0):
    """Prepare, compare outputs with the original, and give the prepared model."""
    before = proto.SerializeToString()
    ready = prepare(load(proto), opset)
    result = to_proto(ready)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    assert list(result.graph.input) == list(proto.graph.input)
    assert list(result.graph.output) == list(proto.graph.output)
    same(proto, result, feeds)
    return ready


def norm(channels):
    return {"s": rand(channels), "o": rand(channels), "m": rand(channels), "v": np.abs(rand(channels)) + 0.1}
