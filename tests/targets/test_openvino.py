"""The portable files give the same answers in OpenVINO."""

import numpy as np
import pytest
from graphs import weight
from targets.layer_cases import CASES, dequantized, loaded, run, solve_nearest, with_weight
from targets.storing import BIASES, CONV, SQUARE, deviation, images, literal, net, rows, store

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
    if layer.layout.rows % 32:
        grid = Grid(grid.bits, grid.symmetric)
    solution = solve_nearest(case.weight(), layer, grid)
    source = loaded(case, 21)
    TARGETS["portable"].rewrite(source, [layer], {"n": solution}, Recipe(size_first=True))
    path = tmp_path / "m.onnx"
    path.write_bytes(to_proto(source).SerializeToString())
    compiled = openvino.Core().compile_model(path, "CPU", EXACT)
    found = compiled(case.feeds())[0]
    expected = run(with_weight(case.proto(), dequantized(solution, layer)), case.feeds())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def compiled(proto, folder):
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return openvino.Core().compile_model(path, "CPU", EXACT)


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("target", ["openvino", "ort"])
def test_convolutions_with_8_bit_activations(target, weights, tmp_path):
    body = f"a = {CONV}(x, W1, b1) r = Relu(a) c = {CONV}(r, W2, b2) s = Add(c, r) y = {CONV}(s, W3)"
    proto = net(body, **SQUARE, b1=BIASES["b1"], b2=BIASES["b2"])
    feeds = images(2, 8, 10, 10)
    bed = store(proto, feeds, target, weights=weights)
    assert deviation(compiled(bed.proto, tmp_path)(feeds)[0], literal(bed, feeds)[0]) < 1e-2


@pytest.mark.parametrize("target", ["openvino", "portable"])
@pytest.mark.parametrize("op", ["Gemm(x, W, b)", "MatMul(x, W)"])
def test_products_with_8_bit_activations(op, target, tmp_path):
    values = {"W": weight(16, 8)} | ({"b": weight(8)} if "Gemm" in op else {})
    bed = store(net(f"y = {op}", "float[B, 16] x", **values), rows(5, 16), target)
    assert deviation(compiled(bed.proto, tmp_path)(rows(5, 16))[0], literal(bed, rows(5, 16))[0]) < 1e-2


@pytest.mark.parametrize("target", ["ort", "openvino", "portable"])
@pytest.mark.parametrize("shape", [(5, 16), (3, 6, 16)], ids=str)
@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, W) r = Relu(a) y = Exp(r)",
        "a0 = MatMul(x, W) a = Add(a0, b) r = Relu(a) y = MatMul(r, V)",
        "a = MatMul(x, W) s = Add(a, x) r = Relu(s) y = MatMul(r, V)",
    ],
)
def test_products_kept_apart_from_what_follows(body, shape, target, tmp_path):
    words = body.replace("(", " ").replace(",", " ").replace(")", " ").split()
    values = {"W": weight(16, 16), "V": weight(16, 8, seed=1), "b": weight(16, seed=2)}
    head = f"float[{', '.join(['B', *map(str, shape[1:])])}] x"
    used = {name: value for name, value in values.items() if name in words}
    bed = store(net(body, head, **used), rows(*shape), target)
    assert deviation(compiled(bed.proto, tmp_path)(rows(*shape))[0], literal(bed, rows(*shape))[0]) < 1e-2
