"""Float files whose weights are points of their grids, and nothing else is changed."""

import itertools

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx import numpy_helper
from targets.layer_cases import (
    CASES,
    DTYPES,
    dequantized,
    initializers,
    loaded,
    run,
    solve_nearest,
    with_weight,
)

from comq_onnx import quantize
from comq_onnx.errors import ComqError
from comq_onnx.evaluate.verify import check_values
from comq_onnx.graph.io import to_proto
from comq_onnx.grid import Grid
from comq_onnx.planning import plan
from comq_onnx.recipe import Recipe
from comq_onnx.targets import TARGETS

GRIDS = [Grid(b, s, g) for b, s, g in itertools.product((8, 4, 3, 2), (True, False), ("channel", "tensor"))]
NET = """g (float[B, 3, 12, 12] x) => (float[B, 10] y) {
  c = Conv<strides = [2, 2]>(x, K, b)
  r = Relu(c)
  f = Flatten(r)
  y = MatMul(f, W)
}"""


def write(case, grid, dtype="float32", opset=17):
    layer = case.layer(dtype)
    solution = solve_nearest(case.weight(dtype), layer, grid)
    source = loaded(case, opset, dtype)
    said = TARGETS["fakequant"].rewrite(source, [layer], {"n": solution}, Recipe(target="fakequant"))
    return to_proto(source), layer, solution, said[0]


@pytest.mark.parametrize("grid", [*GRIDS, Grid(4, True, "block", 16)], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in CASES if kind != "matmul_ragged"])
def test_the_weight_is_what_the_codes_stand_for(kind, grid):
    case = CASES[kind]
    if grid.granularity == "block" and case.layer().layout.rows % 16:
        pytest.skip("no whole blocks")
    proto, layer, solution, said = write(case, grid)
    onnx.checker.check_model(proto, full_check=True)
    wanted = dequantized(solution, layer).astype(np.float32)
    np.testing.assert_array_equal(numpy_helper.to_array(initializers(proto)["W"]), wanted)
    oracle = with_weight(case.proto(17), wanted)
    np.testing.assert_array_equal(run(proto, case.feeds()), run(oracle, case.feeds()))
    assert [n.op_type for n in proto.graph.node] == [n.op_type for n in oracle.graph.node]
    assert (said.form, said.bytes_after) == ("float values", wanted.nbytes)
    assert check_values(proto, [layer], {"n": solution}).ok


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_weights_are_the_nearest_ones(dtype):
    proto, layer, solution, _ = write(CASES["matmul"], Grid(4), dtype, 22)
    found = numpy_helper.to_array(initializers(proto)["W"])
    np.testing.assert_array_equal(found, dequantized(solution, layer).astype(DTYPES[dtype]))
    assert check_values(proto, [layer], {"n": solution}).ok


def test_a_wrong_weight_is_found():
    proto, layer, solution, _ = write(CASES["conv"], Grid(4))
    values = numpy_helper.to_array(initializers(proto)["W"]).copy()
    values.flat[5] = np.nextafter(values.flat[5], np.float32(9))
    check = check_values(with_weight(proto, values), [layer], {"n": solution})
    assert (check.ok, check.fatal, check.detail) == (False, True, "n holds other weights")


def test_a_whole_run_keeps_the_opset_and_folds_the_biases(tmp_path):
    values = {"K": weight(8, 3, 3, 3), "b": weight(8, seed=1), "W": weight(200, 10, seed=2)}
    net = model(NET, 11, 7, **values)
    data = {"x": np.random.default_rng(1).standard_normal((32, 3, 12, 12)).astype(np.float32) + 1}
    report = quantize(net, tmp_path / "m.onnx", data, Recipe(target="fakequant"))
    written = onnx.load(tmp_path / "m.onnx")
    assert report.verification.ok
    assert report.opset_after == 11
    assert [n.op_type for n in written.graph.node if n.op_type != "Add"] == [
        n.op_type for n in net.graph.node
    ]
    stored = initializers(written)
    assert not np.array_equal(numpy_helper.to_array(stored["b"]), values["b"])
    kernel = numpy_helper.to_array(stored["K"])
    assert all(len(np.unique(channel)) <= 16 for channel in kernel)
    assert "weights = solution" in [check.name for check in report.verification.checks]
    assert any("as large as the float file" in note for note in report.notes)
    assert not any("low-bit kernels" in note for note in report.notes)


@pytest.mark.parametrize("options", [{"high_precision_dtype": "fp16"}, {"activations": "int8"}])
def test_what_would_not_be_float_weights_is_refused(options):
    net = model("g (float[B, 64] x) => (float[B, 8] y) { y = MatMul(x, W) }", W=weight(64, 8))
    recipe = Recipe(target="fakequant", **options)
    with pytest.raises(ComqError, match=r"--(high-precision-dtype fp16|activations int8)"):
        plan(net, recipe)
