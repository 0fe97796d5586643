"""Products of values with two ranges: the law, the kernels onnxruntime runs, and what lies in the file."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import model, weight
from onnx import numpy_helper
from targets.layer_cases import optimized_ops

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import from_rows, to_rows, weight_values
from comq_onnx.graph.prepare import prepare
from comq_onnx.grid import dequantize
from comq_onnx.recipe import Recipe
from comq_onnx.records import TwinGrid, ValueGrid
from comq_onnx.targets import TARGETS, Target, portable
from comq_onnx.targets.blocks import eight_bit_grid
from comq_onnx.targets.placement import Stored, place
from comq_onnx.targets.qdq import QdqTarget
from comq_onnx.targets.twin import twin_readers

SIGNED = QdqTarget(
    "signed", packed_int2=False, rules=(), eight_bit=replace(portable.EIGHT_BIT, products=True)
)
"""With products of two activations whose readers have a QuantizeLinear each"""
RUNTIMES: dict[str, Target] = {**TARGETS, "signed": SIGNED}

ROOT, HALF, ONE = (np.float32(v) for v in (np.sqrt(2.0), 0.5, 1.0))
GELU = {
    "behind": "d = Div(x, r) e = Erf(d) a = Add(e, o) m = Mul(x, a) g = Mul(m, h)",
    "before": "d = Div(x, r) e = Erf(d) a = Add(o, e) m = Mul(x, h) g = Mul(a, m)",
    "weight": "d = Mul(x, i) e = Erf(d) a = Add(e, o) m = Mul(h, a) g = Mul(m, x)",
    "node": "g = Gelu(x)",
}
NUMBERS = {"r": ROOT, "h": HALF, "o": ONE, "i": np.float32(1 / ROOT)}
DENSE = (
    "(float[{rank},64] x) => (float[{rank},24] y, float[{rank},64] g) "
    "{{ {gelu} p = MatMul(g, W) y = Add(p, b) }}"
)
RANKS = {"matrix": "B", "sequence": "B,S"}
SHAPES = {"matrix": (7, 64), "sequence": (2, 5, 64)}
ATTENTION = "g ({inputs}) => (float[B,9,16] y, float[B,9,9] g) {{ {nodes} }}"
SQUARE = "float[B,9,9] x, float[B,9,16] v"


@dataclass(frozen=True)
class Made:
    """A written file, and what it should compute with."""

    proto: onnx.ModelProto
    twin: TwinGrid
    grids: dict[str, ValueGrid]
    weight: np.ndarray | None


def twin_of(target: str, recipe: Recipe, low: float, threshold: float, large: float) -> TwinGrid:
    rules = RUNTIMES[target].activations(recipe, True)
    assert rules is not None
    kind = rules.kind
    top = 127 if kind.signed else 255
    if kind.symmetric:
        small = ValueGrid(float(np.float32(threshold / top)), 0, kind)
    else:
        scale = np.float32((threshold - low) / top)
        small = ValueGrid(float(scale), round(-low / float(scale)), kind)
    exact = float(np.float32(small.scale) * np.float32(top - small.zero_point))
    return TwinGrid(exact, small, ValueGrid(float(np.float32(large / top)), 0, kind), 3.0)


def written(proto: onnx.ModelProto, target: str, opset: int, bits: int, solve) -> Made:
    # 7 bits of weights are exact on processors that add products in 16 bits too.
    recipe = Recipe(f"int{bits}", activations="int8", target="ort", twin_ranges=True, reduce_range=True)  # type: ignore[arg-type]
    ready = prepare(load(proto), opset)
    has_weight = any(tensor.name == "W" for tensor in proto.graph.initializer)
    layers = find_layers(ready, Recipe())[0] if has_weight else []
    rules = RUNTIMES[target].activations(recipe, True)
    assert rules is not None
    placement = place(ready, layers, rules, size_first=False)
    (tensor,) = twin_readers(ready, placement)
    low = 0.0 if any(n.op_type == "Softmax" for n in proto.graph.node) else -0.17
    twin = twin_of(target, recipe, low, 0.4, 6.0 if low else 0.6)
    grids = {value.tensor: twin_of(target, recipe, -3.0, 3.0, 1.0).small for value in placement.values}
    rows = {la.name: to_rows(weight_values(ready, la), la.layout) for la in layers}
    grid, _ = eight_bit_grid(recipe, bits)
    solutions = {name: solve(part, grid, True) for name, part in rows.items()}
    weights = [
        from_rows(dequantize(s.codes, s.scale, s.zero_point, s.grid), la.layout)
        for la, s in zip(layers, solutions.values(), strict=True)
    ]
    stored = Stored(placement, grids, {tensor: twin})
    RUNTIMES[target].rewrite(ready, layers, solutions, recipe, stored)
    return Made(to_proto(ready), twin, grids, weights[0] if weights else None)


def with_constants(text: str, opset: int) -> onnx.ModelProto:
    constants: dict[str, Any] = {name: np.asarray(value) for name, value in NUMBERS.items()}
    constants |= {"W": weight(64, 24, seed=3), "b": weight(24, seed=4)}
    return model(text, opset=opset, **constants)


def dense(gelu: str, rank: str, target: str, solve, opset: int = 21, bits: int = 8) -> Made:
    text = "g " + DENSE.format(rank=RANKS[rank], gelu=GELU[gelu])
    proto = with_constants(text, 20 if gelu == "node" else 13)
    return written(proto, target, opset, bits, solve)


def rounded(data: np.ndarray, grid: ValueGrid) -> np.ndarray:
    low, high = (-128, 127) if grid.kind.signed else (0, 255)
    codes = np.clip(np.rint(data.astype(np.float32) / np.float32(grid.scale)) + grid.zero_point, low, high)
    return (codes - grid.zero_point) * np.float64(grid.scale)


def parted(data: np.ndarray, twin: TwinGrid) -> np.ndarray:
    """By the law: what does not reach the threshold in fine steps, what exceeds it in coarse ones."""
    beyond = np.maximum(data - np.float32(twin.threshold), np.float32(0))
    return rounded(np.minimum(data, np.float32(twin.threshold)), twin.small) + rounded(beyond, twin.large)


def heavy_tailed(*shape: int) -> np.ndarray:
    return np.random.default_rng(8).standard_t(2, shape).astype(np.float32)


def outputs(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], optimize: bool) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(made) for made in session.run(["y", "g"], feeds)]


@pytest.mark.parametrize("target", ["ort", "openvino", "web", "portable"])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(("opset", "bits"), [(13, 8), (21, 8), (21, 4)])
def test_a_layer_behind_a_gelu(target, rank, opset, bits, tmp_path, solve_nearest_rows):
    made = dense("behind", rank, target, solve_nearest_rows, opset, bits)
    onnx.checker.check_model(made.proto, full_check=True)
    feeds = {"x": heavy_tailed(*SHAPES[rank])}
    for optimize in (False, True):
        y, g = outputs(made.proto, feeds, optimize)
        assert g.max() > made.twin.threshold > 0 > g.min()
        expected = parted(g, made.twin) @ made.weight + weight(24, seed=4) + 1  # the bias that was solved
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    ops = Counter(optimized_ops(made.proto, tmp_path))
    assert ops["MatMulIntegerToFloat"] == 2
    assert not ops["MatMul"] + ops["DequantizeLinear"] + ops["Gemm"]


@pytest.mark.parametrize("target", ["ort", "openvino", "web", "signed"])
@pytest.mark.parametrize("opset", [13, 21])
def test_a_product_behind_a_softmax(target, opset, tmp_path, solve_nearest_rows):
    made = written(
        model(ATTENTION.format(inputs=SQUARE, nodes="g = Softmax(x) y = MatMul(g, v)"), opset=13),
        target,
        opset,
        8,
        solve_nearest_rows,
    )
    onnx.checker.check_model(made.proto, full_check=True)
    feeds = {"x": heavy_tailed(3, 9, 9), "v": heavy_tailed(3, 9, 16) / 3}
    if target == "signed":  # int8 on the right: 7 bits of it are exact on every processor
        grid = made.grids["v"]
        feeds["v"] = feeds["v"].clip(-64 * np.float32(grid.scale), 63 * np.float32(grid.scale))
    for optimize in (False, True):
        y, g = outputs(made.proto, feeds, optimize)
        expected = parted(g, made.twin) @ rounded(feeds["v"], made.grids["v"])
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    ops = Counter(optimized_ops(made.proto, tmp_path))
    assert ops["MatMulIntegerToFloat"] == 2
    assert not ops["MatMul"] + ops["DequantizeLinear"]


@pytest.mark.parametrize("target", ["ort", "portable"])
def test_the_codes_of_the_weight_lie_in_the_file_once(target, solve_nearest_rows):
    made = dense("behind", "sequence", target, solve_nearest_rows)
    codes = [t for t in made.proto.graph.initializer if numpy_helper.to_array(t).size == 64 * 24]
    assert len(codes) == 1
    readers = [n for n in made.proto.graph.node if codes[0].name in n.input]
    assert [n.op_type for n in readers] == ["DequantizeLinear"] * 2
    assert len({name for n in readers for name in n.output}) == 2


@pytest.mark.parametrize("gelu", GELU)
def test_a_gelu_is_known_in_each_of_its_forms(gelu, solve_nearest_rows):
    made = dense(gelu, "sequence", "ort", solve_nearest_rows)
    assert sum(node.op_type == "MatMul" for node in made.proto.graph.node) == 2


@pytest.mark.parametrize(
    "nodes",
    [
        "g = Relu(x)",
        "g = Mul(x, h)",
        "d = Div(x, h) e = Erf(d) a = Add(e, o) m = Mul(x, a) g = Mul(m, h)",
        "d = Div(x, r) e = Erf(d) a = Add(e, o) m = Mul(d, a) g = Mul(m, h)",
        "d = Div(x, r) e = Erf(d) a = Add(e, h) m = Mul(x, a) g = Mul(m, h)",
    ],
)
def test_what_is_no_gelu_keeps_one_range(nodes):
    text = "g " + DENSE.format(rank=RANKS["sequence"], gelu=nodes)
    assert not readers_of(with_constants(text, 17))


def test_values_that_are_read_twice_or_on_the_right_keep_one_range():
    twice = ATTENTION.format(inputs=SQUARE, nodes="p = Softmax(x) y = MatMul(p, v) g = MatMul(p, x)")
    right = ATTENTION.format(inputs=SQUARE, nodes="g = Softmax(x) w = MatMul(x, g) y = MatMul(w, v)")
    moved = "g = Softmax(x) t = Transpose<perm = [0, 2, 1]>(g) y = MatMul(t, v)"
    moved = ATTENTION.format(inputs=SQUARE, nodes=moved)
    assert not readers_of(model(twice))
    assert not readers_of(model(right))
    assert list(readers_of(model(moved))) == ["t"]


def readers_of(proto: onnx.ModelProto) -> dict[str, str]:
    ready = prepare(load(proto), 17)
    names = {tensor.name for tensor in proto.graph.initializer}
    layers = find_layers(ready, Recipe())[0] if "W" in names else []
    rules = RUNTIMES["ort"].activations(Recipe(activations="int8", target="ort", twin_ranges=True), True)
    assert rules is not None
    return twin_readers(ready, place(ready, layers, rules, size_first=False))
