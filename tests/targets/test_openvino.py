"""The portable files give the same answers in OpenVINO."""

import numpy as np
import pytest
from targets.layer_cases import CASES, dequantized, loaded, run, solve_nearest, with_weight

from comq_onnx.graph.io import to_proto
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.targets import TARGETS

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.openvino
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


@pytest.mark.parametrize("grid", [Grid(4, True, "block", 32), Grid(4, False), Grid(8), Grid(2)], ids=str)
@pytest.mark.parametrize("kind", CASES)
def test_same_answer(kind, grid, tmp_path):
    case = CASES[kind]
    layer = case.layer()
    if kind == "gather" or layer.layout.rows % 32:
        grid = Grid(8 if kind == "gather" else grid.bits, grid.symmetric)
    solution = solve_nearest(case.weight(), layer, grid)
    source = loaded(case, 21)
    TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe())
    path = tmp_path / "m.onnx"
    path.write_bytes(to_proto(source).SerializeToString())
    compiled = openvino.Core().compile_model(path, "CPU", EXACT)
    found = compiled(case.feeds())[0]
    expected = run(with_weight(case.proto(), dequantized(solution, layer)), case.feeds())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
