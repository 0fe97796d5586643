"""A stream walked to its end with made-up solutions, and the same networks made by hand."""

from collections.abc import Iterable
from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper
from onnx import helper as oh

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Quality, Solution
from comq_onnx.run.data import open_calibration
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.specs import input_specs
from comq_onnx.run.stream import FLOAT, QUANTIZED, Stream
from comq_onnx.run.widen import widen

GRID = Grid(bits=4, granularity="channel")


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Run:
    """A stream over a model, walked to its end with made-up solutions; what every layer's input was."""

    def __init__(self, proto: onnx.ModelProto, data: object, limit: int = 1 << 30, **options) -> None:
        recipe = Recipe(**options)
        ready = prepare(load(proto), 17)
        self.layers, _ = find_layers(ready, recipe)
        self.wide = widen(to_proto(ready))
        before = self.wide.SerializeToString()
        self.calibration = open_calibration(data, input_specs(to_proto(ready)), recipe)
        self.stream = Stream(self.wide, self.layers, self.calibration, SessionOptions(threads=1), limit)
        self.solutions: dict[str, Solution] = {}
        self.seen: dict[tuple[str, int, str], np.ndarray] = {}
        blind = [layer for layer in self.layers if layer.in_subgraph or layer.op == "Gather"]
        self._quantize(blind)
        for segment in self.stream.segments:
            self.stream.run(segment)
            for layer, batch in product(segment.layers, range(self.stream.batches)):
                for network in (FLOAT, QUANTIZED):
                    value = self.stream.value(layer.input, batch, network)
                    self.seen[layer.input, batch, network] = value
            self._quantize(segment.layers)
            self.stream.free(segment.frees)
        assert self.wide.SerializeToString() == before, "the model was changed"

    def _quantize(self, layers: Iterable[Layer]) -> None:
        for layer in layers:
            blind = layer.in_subgraph or layer.op == "Gather"
            self.solutions[layer.name] = made_up(layer, len(self.solutions), bias=not blind)
            self.stream.quantize(layer.name, self.solutions[layer.name])


def made_up(layer: Layer, seed: int, bias: bool) -> Solution:
    rng, (groups, rows, cols) = (
        np.random.default_rng(seed),
        (layer.layout.groups, layer.layout.rows, layer.layout.cols),
    )
    codes = rng.integers(-8, 8, (groups, rows, cols)).astype(GRID.code_dtype)
    scale = (rng.uniform(0.02, 0.05, (groups, 1, cols)) / np.sqrt(rows)).astype(np.float32)
    offset = rng.normal(size=(groups, cols)) if bias else None
    return Solution(GRID, codes, scale, None, offset, Quality(1, 1, 1))


def dequantized(layer: Layer, solution: Solution) -> np.ndarray:
    """The weight tensor, entry by entry."""
    layout, kernel = layer.layout, layer.layout.shape[2:]
    values = solution.codes.astype(np.float64) * solution.scale
    weights = np.zeros(layout.shape)
    taps = int(np.prod(kernel, dtype=int))
    for index in np.ndindex(*layout.shape):
        if layout.kind == "matmul":
            group = int(np.ravel_multi_index(index[:-2], layout.shape[:-2])) if len(index) > 2 else 0
            at = group, index[-2], index[-1]
        elif layout.kind == "matmul_left" or layout.kind == "gather":
            at = 0, index[1], index[0]
        else:
            tap = int(np.ravel_multi_index(index[2:], kernel))
            per = layout.shape[0] // layout.groups
            if layout.kind == "conv":
                at = index[0] // per, index[1] * taps + tap, index[0] % per
            else:
                at = index[0] // per, index[0] % per * taps + tap, index[1]
        weights[index] = values[at]
    return weights


def quantized_by_hand(run: Run) -> onnx.ModelProto:
    """The model with other weights, and an Add behind each layer that has a bias."""
    result = onnx.ModelProto()
    result.CopyFrom(run.wide)
    layers = {layer.name: layer for layer in run.layers}
    fill(result.graph, layers, run.solutions)
    nodes = list(result.graph.node)
    del result.graph.node[:]
    for node in nodes:
        result.graph.node.append(node)
        solution = run.solutions.get(node.name)
        if solution is None or solution.bias is None:
            continue
        layer, last = layers[node.name], result.graph.node[-1]
        name, last.output[0] = last.output[0], "bare " + last.output[0]
        values = solution.bias
        if layer.op.startswith("Conv"):
            values = values.reshape(1, -1, *[1] * (len(layer.layout.shape) - 2))
        elif layer.layout.kind == "matmul_left":
            values = values.reshape(-1, 1)
        else:
            values = values[:, None, :] if len(layer.layout.shape) == 3 else values.reshape(-1)
        dtype = np.float64 if layer.dtype == "float64" else np.float32
        result.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), "add " + name))
        result.graph.node.append(oh.make_node("Add", [last.output[0], "add " + name], [name]))
    return result


def fill(graph: onnx.GraphProto, layers: dict[str, Layer], solutions: dict[str, Solution]) -> None:
    by_weight = {layer.weight: layer for layer in layers.values()}
    for tensor in graph.initializer:
        if tensor.name in by_weight:
            layer = by_weight[tensor.name]
            values = dequantized(layer, solutions[layer.name])
            dtype = np.float64 if layer.dtype == "float64" else np.float32
            tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
    for attribute in (a for node in graph.node for a in node.attribute if a.HasField("g")):
        fill(attribute.g, layers, solutions)


def plain(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
    """Tensors of a model, by one run of all of it."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    computed = [name for name in names if name not in feeds]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = {spec.name: feeds[spec.name] for spec in session.get_inputs()}
    found = dict(zip(computed, session.run(computed, taken), strict=True)) if computed else {}
    return [found[name] if name in found else feeds[name] for name in names]


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal to a few float32 roundings of the largest entry."""
    assert got.shape == wanted.shape
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    return bool(np.abs(got - wanted).max(initial=0) <= 1e-5 * max(np.abs(wanted).max(initial=0), 1e-6))


def agree_with_plain_runs(run: Run) -> None:
    half = {TensorProto.FLOAT: np.float32}
    kinds = {info.name: half.get(info.type.tensor_type.elem_type) for info in run.wide.graph.input}
    tensors = list(dict.fromkeys(name for name, _, _ in run.seen))
    assert tensors
    hand = quantized_by_hand(run)
    for number, batch in enumerate(run.calibration.batches()):
        feeds = {name: value.astype(kinds[name] or value.dtype) for name, value in batch.items()}
        for proto, network in ((run.wide, FLOAT), (hand, QUANTIZED)):
            for name, wanted in zip(tensors, plain(proto, feeds, tensors), strict=True):
                assert close(run.seen[name, number, network], wanted), (name, number, network)


def nothing_is_left(run: Run) -> None:
    store, nodes = run.stream.store, len(run.wide.graph.node)
    assert (store.held, store._arrays, store._files) == (0, {}, {})
    assert run.stream.node_runs <= 2 * nodes * run.stream.batches
