"""What is measured between two layers, against the tensors themselves."""

import numpy as np
import pytest
from graphs import model, weight

from comq_onnx.graph.adjacent import Pair, adjacent
from comq_onnx.graph.io import load, to_proto
from comq_onnx.layerwise import Solved
from comq_onnx.planning import open_run
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.stream import Stream
from comq_onnx.run.widen import widen
from comq_onnx.sequential import march
from comq_onnx.stats.between import input_rows, module_error, slopes
from comq_onnx.stats.taps import Sampling

TEXT = """g (float[n, 3, 5, 5] x) => (float[n, 2, 3, 3] y)
    { p = Conv(x, P) a = Conv<group = 8>(p, D) z = Relu(a) y = Conv(z, B) }"""


def walked() -> tuple[Stream, Pair, dict[str, Layer], np.ndarray, Solved]:
    """A stream that stands before the last layer, all layers quantized."""
    weights = {"P": weight(8, 3, 1, 1), "D": weight(8, 1, 3, 3, seed=1), "B": weight(2, 8, 1, 1, seed=2)}
    x = np.random.default_rng(0).standard_normal((10, 3, 5, 5)).astype(np.float32)
    recipe = Recipe(weights="int2", block_size="channel", effort="fast", batch_size=4)
    run = open_run(model(TEXT, **weights), {"x": x}, recipe)
    solved, layers = march(run, recipe), run.plan.layers
    proto = widen(to_proto(load(run.plan.prepared)))
    pair = adjacent(proto.graph, layers)[-1]
    named = {layer.name: layer for layer in layers}
    held = {pair.second: [named[pair.first].input]}
    stream = Stream(proto, layers, run.calibration, SessionOptions(threads=1), 1 << 30, held=held)
    for segment in stream.segments:
        stream.run(segment)
        for layer in segment.layers:
            stream.quantize(layer.name, solved.solutions[layer.name])
        if pair.second not in {layer.name for layer in segment.layers}:
            stream.free(segment.frees)
    return stream, pair, named, x, solved


def test_the_slopes_of_relu_are_the_parts_that_are_active():
    stream, pair, named, _, _ = walked()
    first, second = named[pair.first], named[pair.second]
    nodes = stream.nodes_of(first)
    made = [
        np.concatenate([batch for (batch,) in stream.outputs(nodes, first.input, [first.output], network)])
        for network in ("float", "quantized")
    ]
    both = np.all([m > 0 for m in made], axis=0).mean(axis=(0, 2, 3))
    either = np.any([m > 0 for m in made], axis=0).mean(axis=(0, 2, 3))
    found = slopes(stream, pair, first, second)
    assert found is not None
    diagonal = np.diagonal(found)
    assert (diagonal >= both - 1e-3).all()
    assert (diagonal <= either).all()
    assert np.linalg.eigvalsh(found).min() > -1e-9


def test_rows_are_those_of_the_gram_of_the_quantized_network():
    stream, pair, named, _, _ = walked()
    first = named[pair.first]
    rows = input_rows(stream, first, Sampling(0, 10), 1 << 20)
    assert rows.shape == (8, 90, 9)
    tensor = np.concatenate([stream.value(first.input, batch, "quantized") for batch in range(3)])
    windows = np.lib.stride_tricks.sliding_window_view(tensor, (3, 3), axis=(2, 3))
    np.testing.assert_array_equal(rows, windows.transpose(1, 0, 2, 3, 4, 5).reshape(8, 90, 9))


def test_fewer_rows_are_taken_where_memory_is_short():
    stream, pair, named, _, _ = walked()
    rows = input_rows(stream, named[pair.first], Sampling(0, 10), 4 * 8 * 9 * 10 * 2)
    assert rows.shape == (8, 20, 9)


def test_the_module_error_is_that_of_the_outputs():
    stream, pair, named, _, solved = walked()
    second = named[pair.second]
    found = module_error(stream, second, [])
    outs = []
    for network in ("float", "quantized"):
        z = np.concatenate([stream.value(second.input, batch, network) for batch in range(3)])
        outs.append((z.astype(np.float64), network))
    solution = solved.solutions[second.name]
    float_ = np.einsum("nchw,oc->nohw", outs[0][0], weight(2, 8, 1, 1, seed=2)[:, :, 0, 0])
    written = (solution.codes[0] * solution.scale[0]).T
    made = np.einsum("nchw,oc->nohw", outs[1][0], written) + solution.bias[0][None, :, None, None]
    assert found == pytest.approx(np.square(float_ - made).sum() / np.square(float_).sum(), rel=1e-4)


def test_putting_others_in_place_can_be_taken_back():
    stream, pair, named, _, _ = walked()
    name = named[pair.second].input
    before = [stream.value(name, batch, "quantized") for batch in range(3)]
    stream.replace(name, [value + 1 for value in before])
    np.testing.assert_array_equal(stream.value(name, 1, "quantized"), before[1] + 1)
    stream.settle(name, keep=False)
    for batch in range(3):
        np.testing.assert_array_equal(stream.value(name, batch, "quantized"), before[batch])
    stream.replace(name, [value + 1 for value in before])
    held = stream.store.held
    stream.settle(name, keep=True)
    assert stream.store.held == held - sum(value.nbytes for value in before)
    np.testing.assert_array_equal(stream.value(name, 2, "quantized"), before[2] + 1)
