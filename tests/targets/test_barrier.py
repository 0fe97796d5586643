"""Products stay visible to onnxruntime as products with quantized weights, whatever follows them."""

import numpy as np
import pytest
from graphs import model, weight
from targets.layer_cases import optimized_ops, run

from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.graph.prepare import prepare
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.targets import TARGETS
from comq_onnx.targets.barrier import ACTIVATIONS

DEEP = {
    "matmul": "h{i} = MatMul({x}, w{i}) a{i} = Add(h{i}, b{i}) r{i} = {act}(a{i})",
    "gemm": "a{i} = Gemm({x}, w{i}, b{i}) r{i} = {act}(a{i})",
    "no bias": "a{i} = MatMul({x}, w{i}) r{i} = {act}(a{i})",
    "residual": "h{i} = MatMul({x}, w{i}) a{i} = Add(h{i}, {x}) r{i} = {act}(a{i})",
}


def network(form: str, act: str, batch: str, depth: int = 3) -> tuple[str, dict[str, np.ndarray]]:
    act = act.replace("Clip", "Clip<min=0.0,max=6.0>")
    steps = [DEEP[form].format(i=i, x=f"r{i - 1}" if i else "x", act=act) for i in range(depth)]
    weights = {f"w{i}": weight(64, 64, seed=i) for i in range(depth)}
    if form in ("matmul", "gemm"):
        weights |= {f"b{i}": weight(64, seed=9 + i) for i in range(depth)}
    return f"g (float[{batch},64] x) => (float[{batch},64] r{depth - 1}) {{ {' '.join(steps)} }}", weights


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
@pytest.mark.parametrize(
    ("form", "batch"), [*((form, "B") for form in DEEP), ("matmul", "B,S"), ("no bias", "B,S")]
)
def test_every_product_of_a_deep_network_is_fused(
    form, batch, act, compensated, tmp_path, solve_nearest_rows
):
    text, weights = network(form, act, batch)
    source = model(text, opset=10, ir_version=5, **weights)
    ready = prepare(load(source), 21)
    layers, _ = find_layers(ready, Recipe())
    solutions = {
        layer.name: solve_nearest_rows(
            to_rows(weight_values(ready, layer), layer.layout), Grid(4), compensated
        )
        for layer in layers
    }
    written = TARGETS["portable"].rewrite(ready, layers, solutions, Recipe(size_first=True))
    assert {w.form for w in written} == {"DequantizeLinear"}
    proto = to_proto(ready)
    ops = optimized_ops(proto, tmp_path)
    assert ops.count("MatMulNBits") == 3
    assert "DequantizeLinear" not in ops
    feeds = {"x": weight(*(5,) * len(batch.split(",")), 64, seed=40) * 5}
    np.testing.assert_allclose(run(proto, feeds), run(proto, feeds, optimize=True), rtol=1e-4, atol=1e-5)
