"""MatMulNBits holds what was solved, by the operator's definition and in onnxruntime."""

import numpy as np
import onnx
import pytest
from graphs import weight
from hypothesis import given, settings
from hypothesis import strategies as st
from targets.layer_cases import dequantized, solve_nearest
from targets.storing import net, outputs, rows, store

from comq_onnx.evaluate.readback_forms import lowest_first
from comq_onnx.evaluate.verify import check_codes
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import layout_of
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.targets import TARGETS
from comq_onnx.targets.nbits import matmul_nbits, nbits_block, pack
from comq_onnx.targets.piece import Piece

BODIES = {
    "MatMul": "y = MatMul(x, W)",
    "Add": "h = MatMul(x, W) y = Add(h, b)",
    "Gemm": "y = Gemm(x, W, b)",
    "bare": "y = Gemm(x, W)",
}


def written(kind, grid, shape=(64, 24), head=None, bias=None, addend=None):
    """File, layer, solution and what was written of a net of one layer ``n``."""
    values = {"W": weight(*shape, seed=3)}
    if kind in ("Add", "Gemm"):
        values["b"] = weight(shape[1], seed=4) if addend is None else addend
    proto = net(BODIES[kind], head or f"float[B, {shape[0]}] x", 21, **values)
    source = load(proto)
    op = "Gemm" if kind in ("Gemm", "bare") else "MatMul"
    source.graph.nodes[0].name = "n"
    layer = Layer("n", op, "W", "x", "y", layout_of("matmul", shape), "float32")
    solution = solve_nearest(values["W"], layer, grid, bias)
    recipe = Recipe(target="ort", matmulnbits=True)
    said = TARGETS["ort"].rewrite(source, [layer], {"n": solution}, recipe)[0]
    return to_proto(source), layer, solution, said, values


def node_of(proto):
    return next(node for node in proto.graph.node if node.name == "n")


GRIDS = [
    Grid(bits, symmetric, granularity, 32 if granularity == "block" else 0)
    for bits in (2, 3, 4, 8)
    for symmetric in (True, False)
    for granularity in ("block", "channel")
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", BODIES)
def test_the_operator_computes_what_was_solved(kind, grid, tmp_path):
    proto, layer, solution, said, values = written(kind, grid)
    assert said.form == "MatMulNBits"
    node = node_of(proto)
    assert (node.op_type, node.domain) == ("MatMulNBits", "com.microsoft")
    assert ("com.microsoft", 1) in {(o.domain, o.version) for o in proto.opset_import}
    attributes = {a.name: a.i for a in node.attribute}
    assert attributes["bits"] == (4 if grid.bits == 3 else grid.bits)
    assert (attributes["K"], attributes["N"], attributes["accuracy_level"]) == (64, 24, 4)
    feeds = rows(5, 64)
    expected = feeds["x"] @ dequantized(solution, layer).astype(np.float32) + values.get("b", 0)
    largest = np.abs(expected).max()
    for optimize in (False, True):
        # The operator rounds the rows of its input to int8.
        np.testing.assert_allclose(outputs(proto, feeds, optimize)[0], expected, atol=2e-2 * largest)
    assert check_codes(proto, [layer], {"n": solution}).ok


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_at_exact_settings_it_computes_just_that(grid):
    proto, layer, solution, _, values = written("Gemm", grid)
    next(a for a in node_of(proto).attribute if a.name == "accuracy_level").i = 1
    feeds = rows(5, 64)
    expected = feeds["x"] @ dequantized(solution, layer).astype(np.float32) + values["b"]
    np.testing.assert_allclose(outputs(proto, feeds)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Add", "Gemm"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 24)], ids=str)
def test_biases_of_other_shapes(kind, shape):
    addend = np.asarray(weight(*shape, seed=9) if shape else 0.5, np.float32)
    proto, layer, solution, said, _ = written(kind, Grid(4), addend=addend)
    assert said.form == "MatMulNBits"
    onnx.checker.check_model(proto)
    expected = rows(5, 64)["x"] @ dequantized(solution, layer).astype(np.float32) + addend
    for optimize in (False, True):
        found = outputs(proto, rows(5, 64), optimize)[0]
        np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())


@pytest.mark.parametrize("kind", BODIES)
def test_a_compensating_bias(kind):
    plain, *_ = written(kind, Grid(4))
    shifted, *_ = written(kind, Grid(4), bias=np.full((1, 24), 0.25))
    feeds = rows(5, 64)
    np.testing.assert_allclose(outputs(shifted, feeds)[0], outputs(plain, feeds)[0] + 0.25, atol=1e-5)


def test_sequences(tmp_path):
    proto, layer, solution, _, values = written("Add", Grid(4, True, "block", 16), head="float[B, S, 64] x")
    feeds = rows(2, 3, 64)
    expected = feeds["x"] @ dequantized(solution, layer).astype(np.float32) + values["b"]
    np.testing.assert_allclose(outputs(proto, feeds, True)[0], expected, atol=2e-2 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("kind", "grid", "shape", "addend"),
    [
        ("MatMul", Grid(4), (36, 8), None),
        ("MatMul", Grid(8), (24, 8), None),
        ("MatMul", Grid(4, False), (40, 8), None),
        ("Gemm", Grid(4), (64, 24), weight(5, 24)),
    ],
)
def test_where_it_does_not_hold_a_layer_another_form_does(kind, grid, shape, addend):
    proto, layer, solution, said, values = written(kind, grid, shape, addend=addend)
    assert said.form in ("DequantizeLinear", "Cast*scale")
    assert "MatMulNBits" not in {node.op_type for node in proto.graph.node}
    feeds = rows(5, shape[0])
    expected = feeds["x"] @ dequantized(solution, layer).astype(np.float32) + values.get("b", 0)
    np.testing.assert_allclose(outputs(proto, feeds)[0], expected, rtol=1e-4, atol=1e-5)
    assert check_codes(proto, [layer], {"n": solution}).ok


def test_two_bit_codes_of_columns_that_4_does_not_divide_lie_in_four():
    proto, layer, solution, _, _ = written("MatMul", Grid(2), (64, 7))
    assert {a.name: a.i for a in node_of(proto).attribute}["bits"] == 4
    assert check_codes(proto, [layer], {"n": solution}).ok


@pytest.mark.parametrize(
    ("rows_", "blocks", "bits", "block"),
    [
        (64, 1, 4, 64),
        (384, 1, 4, 128),
        (36, 1, 4, 0),
        (48, 1, 2, 0),
        (48, 1, 4, 16),
        (512, 2, 2, 128),
        (512, 2, 4, 256),
    ],
)
def test_the_block_it_is_written_in(rows_, blocks, bits, block):
    assert nbits_block(rows_, blocks, bits) == block


def test_a_layer_it_does_not_hold_is_a_bug_of_the_caller():
    values = weight(36, 8)
    source = load(net("y = MatMul(x, W)", "float[B, 36] x", 21, W=values))
    source.graph.nodes[0].name = "n"
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", (36, 8)), "float32")
    with pytest.raises(ValueError, match="does not hold"):
        matmul_nbits(source, Piece(layer, set()), solve_nearest(values, layer, Grid(4)), 4)


def test_the_whole_plan(tmp_path):
    body = "a = Conv<kernel_shape = [3, 3]>(x, C) f = Flatten(a) h = MatMul(f, V) r = Relu(h) y = Gemm(r, W)"
    proto = net(body, C=weight(8, 8, 3, 3), V=weight(512, 16), W=weight(16, 4))
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 8, 10, 10), np.float32)}
    bed = store(proto, feeds, "ort", weights="int4", activations="none", matmulnbits=True)
    assert bed.forms() == ["Cast*scale", "MatMulNBits", "MatMulNBits"]
    assert check_codes(bed.proto, bed.plan.layers, bed.solutions).ok
    plain, found = outputs(bed.proto, feeds)[0], outputs(bed.proto, feeds, True)[0]
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


BITS = st.sampled_from([2, 4, 8])


@settings(max_examples=60, deadline=None)
@given(bits=BITS, data=st.data(), count=st.integers(1, 40), columns=st.integers(1, 3))
def test_packing_and_back(bits, data, count, columns):
    length = count * columns
    values = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=length, max_size=length))
    codes = np.array(values, np.uint8).reshape(columns, count)
    packed = pack(codes, bits)
    assert packed.shape == (columns, -(-count * bits // 8))
    np.testing.assert_array_equal(lowest_first(packed, bits)[..., :count], codes)
    # The definition: byte i holds codes from i * 8 / bits on, the first in its lowest bits.
    for column, line in zip(codes.tolist(), packed.tolist(), strict=True):
        number = sum(code << (bits * place) for place, code in enumerate(column))
        assert int.from_bytes(bytes(line), "little") == number
