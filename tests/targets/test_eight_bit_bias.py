"""Biases of layers that compute in 8 bits, and the room they need beside channels of next to no weight."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from graphs import weight
from onnx import numpy_helper
from targets.layer_cases import dequantized, solve_nearest
from targets.storing import (
    BIASES,
    CONV,
    SQUARE,
    UINT8,
    check_runs,
    images,
    int8_recipe,
    literal,
    net,
    one_layer,
    outputs,
    store,
)

from comq_onnx.errors import ComqError
from comq_onnx.graph.edit import replace_weight
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import layout_of
from comq_onnx.graph.locate import names_in
from comq_onnx.grid import Grid
from comq_onnx.records import Layer, Placed, ValueGrid
from comq_onnx.targets import TARGETS
from comq_onnx.targets.eight_bit import (
    eight_bit_weight,
    integer_bias,
    room_for_bias,
    store_activations,
)
from comq_onnx.targets.piece import Piece
from comq_onnx.targets.placement import Placement, Stored


@pytest.mark.parametrize("op", ["Gemm", "Add", "Conv"])
def test_a_bias_lies_at_the_scale_of_its_products_bit_for_bit(op):
    if op == "Conv":
        bed = store(
            net(f"y = {CONV}(x, W, b1)", W=SQUARE["W1"], b1=BIASES["b1"]), images(2, 8, 10, 10), "ort"
        )
        vector = BIASES["b1"]
    else:
        bed, _, values = one_layer(op)
        vector = values["b"]
    constants = bed.constants()
    codes, scale = (numpy_helper.to_array(constants[f"W_bias_{part}"]) for part in ("quantized", "scale"))
    solution = next(iter(bed.solutions.values()))
    expected = np.float32(bed.grids["x"].scale) * solution.scale.reshape(-1).astype(np.float32)
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, expected)
    assert codes.dtype == np.int32
    assert np.all(np.abs(codes * scale.astype(np.float64) - vector) <= 0.5000001 * scale)


def test_a_compensating_bias_is_added_before_the_bias_is_rounded(tmp_path):
    plain, feeds, values = one_layer("Gemm", how={"reduce_range": True})
    shifted = store(net("y = Gemm(x, W, b)", "float[B, 16] x", **values), feeds, "ort", bias=0.25)
    np.testing.assert_allclose(
        outputs(shifted.proto, feeds)[0], outputs(plain.proto, feeds)[0] + 0.25, atol=1e-3
    )
    created = store(net("y = MatMul(x, W)", "float[B, 16] x", W=values["W"]), feeds, "ort", bias=0.25)
    assert created.written[0].bias.startswith("new Add")
    np.testing.assert_allclose(
        outputs(created.proto, feeds, True)[0], literal(created, feeds)[0] + 0.25, atol=1e-3
    )


def test_a_layer_whose_bias_is_a_matrix_stays_float_and_is_told():
    with pytest.raises(ComqError, match="1 layers: onnxruntime does not fuse a Gemm that adds a matrix"):
        one_layer("Gemm", b=weight(5, 8))


DEAD = weight(8, 8, 3, 3, seed=1)
DEAD[3] = 1e-9 * weight(8, 3, 3, seed=4)
HEAVY = BIASES["b1"].copy()
HEAVY[3] = 3.0


def dead_layer():
    source = load(net(f"y = {CONV}(x, W, b)", W=DEAD, b=HEAVY))
    source.graph.nodes[0].name = "n"
    layer = Layer("n", "Conv", "W", "x", "y", layout_of("conv", DEAD.shape), "float32")
    solution = solve_nearest(DEAD, layer, Grid(8))
    largest = np.abs(DEAD.reshape(8, -1)).max(1) / 127
    scale = largest.astype(np.float32).reshape(1, 1, 8)
    codes = np.rint(DEAD.reshape(8, -1).T[None] / scale).astype(np.int8)
    return source, layer, replace(solution, scale=scale, codes=codes)


def dead_file(room: bool):
    """A file with a float bias, which onnxruntime rounds to int32 itself; and the float net it stands for."""
    source, layer, solution = dead_layer()
    grids = {"x": ValueGrid(0.04, 128, UINT8), "y": ValueGrid(0.04, 120, UINT8)}
    if room:
        solution = room_for_bias(source, layer, solution, grids["x"])
    expected = net(f"y = {CONV}(x, W, b)", W=dequantized(solution, layer).astype(np.float32), b=HEAVY)
    taken, piece = names_in(source), Piece(layer, set())
    replace_weight(source, layer, piece.nodes, eight_bit_weight(piece, solution, 8))
    values = (Placed("x", ("n",), "x"), Placed("y", None, "y"))
    store_activations(source, Stored(Placement(values, frozenset(("n",))), grids), False, taken)
    return to_proto(source), expected


def test_without_room_a_bias_beside_a_dead_channel_is_wrong_and_with_room_right(tmp_path):
    feeds, path = images(2, 8, 10, 10), tmp_path / "o.onnx"
    for room in (False, True):
        proto, float_net = dead_file(room)
        wanted = np.clip(outputs(float_net, feeds)[0], -4.8, 5.4)
        found = outputs(proto, feeds, True, path)[0]
        assert "QLinearConv" in [n.op_type for n in onnx.load(path).graph.node]
        wrong = np.abs(found - wanted).max(axis=(0, 2, 3))
        assert np.all(np.delete(wrong, 3) < 0.2)
        assert (wrong[3] < 0.05) == room


def test_room_is_made_for_channels_that_lack_it_alone():
    source, layer, solution = dead_layer()
    grid = ValueGrid(0.04, 128, UINT8)
    made = room_for_bias(source, layer, solution, grid)
    np.testing.assert_array_equal(np.delete(made.scale, 3, 2), np.delete(solution.scale, 3, 2))
    np.testing.assert_array_equal(np.delete(made.codes, 3, 2), np.delete(solution.codes, 3, 2))
    assert 3.0 / (0.04 * float(made.scale[0, 0, 3])) <= 2.0**30 * 1.0001
    changed = np.abs(made.codes * made.scale.astype(float) - solution.codes * solution.scale.astype(float))
    assert changed.max() <= made.scale[0, 0, 3] * 0.5001
    assert made.note.startswith("1 channels of next to no weight")
    assert room_for_bias(source, layer, made, grid) is made


def test_an_integer_bias_without_room_is_a_bug_of_the_caller():
    source, layer, solution = dead_layer()
    with pytest.raises(ValueError, match="no room in int32"):
        integer_bias(source, layer, solution, ValueGrid(0.04, 128, UINT8), set())


def test_the_whole_writer_makes_room_and_tells(tmp_path):
    proto = net(f"y = {CONV}(x, W, b)", W=DEAD, b=HEAVY)
    bed, feeds = store(proto, images(2, 8, 10, 10), "ort"), images(2, 8, 10, 10)
    _, layer, solution = dead_layer()
    layer = replace(layer, name=bed.plan.layers[0].name)
    again = load(bed.plan.prepared)
    stored = Stored(bed.plan.placement, bed.grids)
    said = TARGETS["ort"].rewrite(again, bed.plan.layers, {layer.name: solution}, int8_recipe(), stored)[0]
    assert "larger scale" in said.solution.note
    made = replace(bed, solutions={layer.name: said.solution}, proto=to_proto(again))
    assert "QLinearConv" in check_runs(made, feeds, tmp_path)
