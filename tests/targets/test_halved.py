"""Weights stored as float16 compute what their rounded values compute, in float32, in every runtime."""

from dataclasses import replace

import numpy as np
import onnx
import onnx.reference
import pytest
from graphs import model, weight
from onnx import TensorProto, numpy_helper
from targets.layer_cases import CASES, initializers, loaded, optimized_ops, run, with_weight

from comq_onnx.evaluate.agreement import EXACT_LIMIT
from comq_onnx.evaluate.readback import WrittenFile
from comq_onnx.graph.half import holds_half
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import layout_of
from comq_onnx.pipeline import make_report, put_in_place, solve_model
from comq_onnx.planning import open_run
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.run.openvino_ import run_openvino
from comq_onnx.targets import TARGETS
from comq_onnx.targets.halved import store_halved
from comq_onnx.targets.size import file_bytes
from comq_onnx.writing import write


def halved(case, target="portable", dtype="float32", recipe=None):
    """The written file and what was said."""
    source, layer = loaded(case, 21, dtype), case.layer(dtype)
    (said,) = store_halved(source, [layer], TARGETS[target], recipe or Recipe(target=target))
    return to_proto(source), said


def rounded(values):
    return values.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("target", ["portable", "ort", "openvino", "web"])
@pytest.mark.parametrize("kind", CASES)
def test_the_file_computes_the_rounded_weight(kind, target, tmp_path):
    case = CASES[kind]
    proto, said = halved(case, target)
    onnx.checker.check_model(proto, full_check=True)
    stored = initializers(proto)
    assert "W" not in stored
    assert stored["W_half"].data_type == TensorProto.FLOAT16
    np.testing.assert_array_equal(numpy_helper.to_array(stored["W_half"]), case.weight().astype(np.float16))
    assert (said.form, said.bytes_after, said.note) == ("float16", 2 * case.weight().size, "")
    oracle = with_weight(case.proto(), rounded(case.weight()))
    expected = run(oracle, case.feeds())
    np.testing.assert_array_equal(run(proto, case.feeds()), expected)
    if kind != "conv_transpose_grouped":  # which the reference (onnx 1.23) does not compute
        reference = onnx.reference.ReferenceEvaluator(proto).run(None, case.feeds())[0]
        np.testing.assert_allclose(reference, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(proto, case.feeds(), True), expected, rtol=1e-5, atol=1e-6)
    behind = ["Cast"] if kind == "gather" else []
    assert optimized_ops(proto, tmp_path) == optimized_ops(case.proto(), tmp_path) + behind
    assert TARGETS[target].lint(proto) == ()
    assert not holds_half(proto)
    assert [o.name for o in proto.graph.output] == ["y"]
    read = WrittenFile(proto).weight(case.layer())
    assert read.codes is None
    np.testing.assert_array_equal(read.values, rounded(case.weight()))


@pytest.mark.openvino
@pytest.mark.parametrize("kind", ["matmul", "gemm_bias", "conv", "conv_transpose", "gather", "matmul_left"])
def test_in_openvino(kind, tmp_path):
    pytest.importorskip("openvino")
    case = CASES[kind]
    proto, _ = halved(case)
    onnx.save(proto, tmp_path / "h.onnx")
    expected = run(with_weight(case.proto(), rounded(case.weight())), case.feeds())
    found = run_openvino(tmp_path / "h.onnx", case.feeds(), exact=True)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["matmul", "gemm_bias", "conv", "gather"])
def test_a_float32_file_for_tensorrt(kind):
    recipe = Recipe(target="tensorrt", high_precision_dtype="fp32")
    proto, said = halved(CASES[kind], "tensorrt", recipe=recipe)
    assert said.form == "float16"
    assert TARGETS["tensorrt"].lint(proto, recipe) == ()


@pytest.mark.parametrize("kind", ["matmul", "conv", "gather"])
def test_a_target_without_codes_has_the_rounded_floats(kind):
    case = CASES[kind]
    proto, said = halved(case, "fakequant")
    stored = initializers(proto)["W"]
    assert stored.data_type == TensorProto.FLOAT
    np.testing.assert_array_equal(numpy_helper.to_array(stored), rounded(case.weight()))
    assert [node.op_type for node in proto.graph.node] == [case.op]
    assert (said.form, said.bytes_after) == ("float16", 4 * case.weight().size)
    assert "float32" in said.choice


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_where_there_is_nothing_to_do(dtype):
    recipe = Recipe(target="ort", high_precision_dtype="fp16" if dtype == "float32" else "auto")
    case = CASES["matmul"]
    proto, said = halved(case, "ort", dtype, recipe)
    assert proto.SerializeToString() == to_proto(loaded(case, 21, dtype)).SerializeToString()
    assert (said.form, said.bytes_after, said.note) == ("float16", 2 * case.weight().size, "")
    assert said.choice


@pytest.mark.parametrize("target", ["portable", "fakequant"])
@pytest.mark.parametrize(
    ("largest", "stays"), [(65519.0, False), (65520.0, True), (-1e6, True), (np.inf, True)]
)
def test_values_beyond_float16_stay(largest, stays, target):
    values = weight(8, 4)
    values[3, 2] = largest
    text = "g (float[B, 8] x) => (float[B, 4] y) { y = MatMul(x, W) }"
    source = load(model(text, 21, W=values))
    source.graph.nodes[0].name = "n"
    layer = Layer("n", "MatMul", "W", "x", "y", layout_of("matmul", (8, 4)), "float32")
    (said,) = store_halved(source, [layer], TARGETS[target], Recipe(target=target))
    assert (said.form == "") == stays == bool(said.note)
    if stays:
        np.testing.assert_array_equal(numpy_helper.to_array(initializers(to_proto(source))["W"]), values)
        assert said.bytes_after == values.nbytes


def test_equal_weights_are_stored_once():
    text = """g (int64[B] x, bool c) => (float[B, 8] y) {
      e = Gather(A, x) f = MatMul(e, B) g = MatMul(f, C)
      y = If (c) < then_branch = t () => (float[B, 8] p) { p = MatMul(g, D) },
                   else_branch = u () => (float[B, 8] q) { q = Relu(g) } >
    }"""
    table = weight(8, 8)
    proto = model(text, 21, A=table, B=table, C=table, D=table)
    source = load(proto)
    inner = next(iter(source.graph.nodes[-1].subgraphs())).nodes[0]
    layers = []
    for node, name in zip((*source.graph.nodes[:3], inner), "ABCD", strict=True):
        node.name = f"n{name}"
        kind = "gather" if node.op == "Gather" else "matmul"
        layout = layout_of(kind, (8, 8))
        layers.append(Layer(node.name, node.op, name, "x", node.outputs[0].name, layout, "float32"))
    store_halved(source, layers, TARGETS["portable"], Recipe())
    made = to_proto(source)
    onnx.checker.check_model(made, full_check=True)
    assert [t.data_type for t in made.graph.initializer] == [TensorProto.FLOAT16]
    feeds = {"x": np.array([1, -1, 0]), "c": np.array(True)}
    small = rounded(table)
    for optimize in (False, True):
        found = run(made, feeds, optimize)
        np.testing.assert_allclose(found, small[feeds["x"]] @ small @ small @ small, rtol=1e-4, atol=1e-6)


COMPUTED = {
    "a sum": "h = Cast<to = 10>(x) s = Add(h, W) y = Cast<to = 1>(s)",
    "rows that are added": "i = Cast<to = 7>(x) r = Gather(W, i) s = Add(r, r) y = Cast<to = 1>(s)",
    "a constant that is summed": "s = Add(W, W) f = Cast<to = 1>(s) y = Add(f, x)",
}


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_computed_in_float16_counts(name):
    text = f"g (float[4] x) => (float[] y) {{ {COMPUTED[name]} }}"
    assert holds_half(model(text, 21, W=weight(4).astype(np.float16)))


NET = """g (int64[B, S] x) => (float[B, S, 32] y) {
  e = Gather(T, x)
  h = MatMul(e, U)
  r = Relu(h)
  y = MatMul(r, V)
}"""


def opened(recipe, **changed):
    arrays = {"T": weight(50, 64), "U": weight(64, 128, seed=1), "V": weight(128, 32, seed=2)} | changed
    found = open_run(model(NET, **arrays), {"x": np.arange(48).reshape(8, 6)}, recipe)
    plan, halved = found.plan, [layer for layer in found.plan.layers if layer.weight in ("T", "U")]
    rest = tuple(layer for layer in plan.layers if layer not in halved)
    return replace(found, plan=replace(plan, layers=rest, halved=tuple(halved)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "ort", "symmetric": False},
        {"target": "web"},
        {"target": "openvino"},
        {"target": "fakequant"},
        {"target": "ort", "high_precision_dtype": "fp16"},
        {"target": "tensorrt"},
    ],
    ids=str,
)
def test_a_whole_run(options, tmp_path):
    recipe = Recipe(quantize_embeddings=options.get("target") != "tensorrt", effort="fast", **options)
    if recipe.target == "tensorrt":
        recipe = replace(recipe, activations="none")
    found = opened(recipe)
    solved = solve_model(found, recipe)
    outcome = write(found, solved, recipe)
    files, checks = put_in_place(tmp_path / "q.onnx", found, outcome, recipe)
    assert checks.ok, [check for check in checks.checks if not check.ok]
    report = make_report(recipe, found, (solved, outcome, checks), files, 1.0)
    expected = 1 if recipe.target == "tensorrt" else 2
    assert [line.grid for line in report.halved] == ["float16"] * expected
    assert len(report.quantized) == 1
    assert not [text for text in report.blemishes if "float16" in text]
    plan = found.plan
    told = file_bytes(plan.prepared, plan.layers, plan.grids, recipe, plan.placement, plan.halved)
    assert 0 < files[0].stat().st_size - told < 500  # how it was made
    exact = next(check for check in checks.checks if check.name == "optimised = unoptimised, exact")
    if recipe.target in ("portable", "ort", "web") and recipe.high_precision_dtype == "auto":
        assert f"limit {EXACT_LIMIT}" in exact.detail


def test_one_that_cannot_be_is_kept_float_and_a_blemish(tmp_path):
    recipe = Recipe(quantize_embeddings=True, effort="fast")
    found = opened(recipe, T=1e6 * weight(50, 64))
    solved = solve_model(found, recipe)
    outcome = write(found, solved, recipe)
    files, checks = put_in_place(tmp_path / "q.onnx", found, outcome, recipe)
    report = make_report(recipe, found, (solved, outcome, checks), files, 1.0)
    assert [line.weight for line in report.halved] == ["U"]
    (line,) = report.kept
    assert (line.weight, line.grid, line.bytes_after) == ("T", "float", line.bytes_before)
    assert any("float16 ends" in text for text in report.blemishes)
    assert line.bytes_before == 4 * 50 * 64
