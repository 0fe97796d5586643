"""The cost model: multiply-adds are counted, and weights of layers are in proportion."""

import numpy as np
import onnx
import pytest
from evaluate.estimating import convolutions, opened, residual
from graphs import model, weight

from comq_onnx.evaluate.work import products_of, work_of
from comq_onnx.graph.shapes import known_shapes
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Layout


def test_multiply_adds_are_those_of_plain_loops() -> None:
    text = """g (float[B,4,9] x) => (float[B,5,P] c) {
      m = MatMul(x, w)
      mm = MatMul(m, turned)
      c = Conv<strides=[2]>(x, k)
      t = ConvTranspose<strides=[2]>(x, u)
      f = Flatten(x)
      g = Gemm<transB=1>(f, v)
    }"""
    weights = {"w": weight(9, 7), "turned": weight(2, 7, 3), "k": weight(5, 4, 3), "u": weight(4, 6, 3)}
    proto = model(text, v=weight(8, 36), **weights)
    shapes = known_shapes(proto, {"x": (2, 4, 9)})
    found = {node.output[0]: products_of(node, shapes) for node in proto.graph.node}
    assert found == {
        "m": 2 * 4 * 9 * 7,
        "mm": 2 * 4 * 7 * 3,
        "c": 2 * 4 * 5 * 4 * 3,  # 4 positions of the output
        "t": 2 * 4 * 9 * 6 * 3,  # each input meets each tap
        "f": 0,
        "g": 2 * 8 * 36,
    }


def test_what_is_unknown_counts_as_nothing() -> None:
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    assert products_of(node, {}) == 0


def dense(rows: int, cols: int) -> Layer:
    layout = Layout("matmul", (rows, cols), 1, rows, cols)
    return Layer("n", "MatMul", "w", "x", "y", layout, "float32")


def test_a_layer_weighs_more_with_rows_and_size() -> None:
    base = work_of(dense(256, 256), 1000)
    assert base > 0
    assert work_of(dense(256, 256), 100_000) > base
    assert work_of(dense(512, 256), 1000) > base
    assert work_of(dense(256, 512), 1000) > base
    # Large ones as the cube: eight times the cells of work for twice the size.
    ratio = work_of(dense(8192, 8192), 0) / work_of(dense(4096, 4096), 0)
    assert ratio == pytest.approx(8, rel=0.15)


def test_what_is_asked_for_counts() -> None:
    layer = dense(512, 512)
    plain = work_of(layer, 1000)
    efforts = [work_of(layer, 1000, recipe=Recipe(effort=effort)) for effort in ("fast", "normal", "max")]
    assert efforts == sorted(efforts)
    assert efforts[1] == plain
    assert work_of(layer, 1000, drifting=False) < plain
    assert work_of(layer, 1000, Grid(4, True, "block", 128)) > plain
    assert work_of(layer, 1000, recipe=Recipe(solver="rtn")) < plain


@pytest.mark.parametrize("made", [residual, convolutions])
def test_every_layer_of_a_plan_has_a_weight(made) -> None:
    run, recipe = opened(*made())
    weights = [work_of(layer, 64, run.plan.grids[layer.name], recipe) for layer in run.plan.layers]
    assert all(np.isfinite(w) and w > 0 for w in weights)
