"""What changed layers make of the outputs, from cut to cut, against whole runs of the changed model."""

import numpy as np
import pytest
from graphs import model, weight
from onnx import ModelProto, numpy_helper

from comq_onnx.backends.engine import cpu_engine
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load
from comq_onnx.grid import Grid, dequantize
from comq_onnx.recipe import Recipe
from comq_onnx.records import Quality, Solution
from comq_onnx.run import onward
from comq_onnx.run.onward import Onward
from comq_onnx.run.session import SessionOptions, open_session

WEIGHTS = {name: weight(8, 8, seed=number) for number, name in enumerate("abcd")}
TEXT = """g (float[N,8] x, float[N,8] m) => (float[N,8] y, float[N,8] early) {
    h = MatMul(x, a) early = Relu(h) p = MatMul(early, b) q = Mul(p, m)
    r = MatMul(q, c) s = Add(r, h) y = MatMul(s, d) }"""


def network() -> ModelProto:
    made = model(TEXT, **WEIGHTS)
    for number, node in enumerate(made.graph.node):
        node.name = f"n{number}"
    return made


def solution(rng: np.random.Generator) -> Solution:
    codes = rng.integers(-8, 8, (1, 8, 8)).astype(np.int8)
    bias = rng.normal(size=(1, 8))
    return Solution(Grid(4), codes, np.full((1, 1, 8), 0.1, np.float32), None, bias, Quality(0, 0, 0))


def by_hand(layer, found: Solution, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A model whose weight is replaced and whose bias is an Add behind the layer."""
    made = network()
    for tensor in made.graph.initializer:
        if tensor.name == layer.weight:
            values = dequantize(found.codes, found.scale, None, found.grid)[0].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = list(made.graph.node)
    place = next(at for at, node in enumerate(nodes) if node.name == layer.name)
    bare = nodes[place].output[0] + "_bare"
    extra = type(nodes[place])(op_type="Add", input=[bare, "bias"], output=[nodes[place].output[0]], name="+")
    nodes[place].output[0] = bare
    del made.graph.node[:]
    made.graph.node.extend([*nodes[: place + 1], extra, *nodes[place + 1 :]])
    made.graph.initializer.append(numpy_helper.from_array(found.bias[0].astype(np.float32), "bias"))
    return open_session(made, SessionOptions(optimize=False)).run(batch)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("apart", [1, 2, 9])
def test_it_is_the_changed_network(monkeypatch, apart, threads):
    monkeypatch.setattr(onward, "LAYERS", apart)
    rng = np.random.default_rng(0)
    batches = [{n: rng.normal(size=(2, 8)).astype(np.float32) for n in "xm"} for _ in range(3)]
    layers = find_layers(load(network()), Recipe())[0]
    assert len(layers) == 4
    how = (SessionOptions(threads=1), cpu_engine(threads).map)
    going = Onward(network(), layers, ["y", "early"], batches, how)
    for layer in layers:
        found = solution(rng)
        for batch, outputs in zip(batches, going.changed(layer, found), strict=True):
            whole = by_hand(layer, found, batch)
            assert "y" in outputs
            for name, values in outputs.items():
                np.testing.assert_allclose(values, whole[name], rtol=2e-5, atol=2e-5)
