"""Float16 graphs load, stay within 1 % of the float32 ones, and have a Cast at borders only."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import model, weight
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from comq_onnx.graph.half import holds_half, to_half
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.run.session import RUNTIME_ERRORS

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
GLYPHS = Path(__file__).parents[2] / "samples" / "glyphs"
CONSTANTS = {"W": weight(64, 64), "b": weight(64, seed=1), "K": weight(8, 4, 3, 3, seed=2)}
MATRIX = "(float[2, 64] x) => (float[2, 64] y)"
IMAGE = "(float[1, 4, 8, 8] x) => (float[1, 8, 16, 16] y)"
GRAPHS = {
    "chain": f"g {MATRIX} {{ a = MatMul(x, W) c = Add(a, b) r = Relu(c) y = MatMul(r, W) }}",
    "softmax": f"g {MATRIX} {{ a = MatMul(x, W) s = Softmax(a) y = MatMul(s, W) }}",
    "norm": f"""g {MATRIX} <float eps = {{1e-12}}, float two = {{2.0}}> {{
        h = MatMul(x, W) m = ReduceMean<axes = [-1]>(h) d = Sub(h, m) q = Pow(d, two)
        v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) s = Sqrt(e) n = Div(d, s)
        g = Mul(n, b) y = Add(g, b) }}""",
    "output is read too": """g (float[2, 64] x) => (float[2, 64] y, float[2, 64] a) {
        a = MatMul(x, W) y = MatMul(a, W) }""",
    "compares": """g (float[2, 64] x) => (float[2, 64] y, int64[2, 1] top) {
        a = MatMul(x, W) z = Sub(a, a) p = Greater(a, z) top = ArgMax<axis = 1>(a) y = Where(p, a, z) }""",
    "integers to float": f"""g {MATRIX} {{
        s = Shape(x) f = Cast<to = 1>(s) r = ReduceMax<keepdims = 0>(f) a = MatMul(x, W) y = Div(a, r) }}""",
    "filled": f"g {MATRIX} {{ s = Shape(x) o = ConstantOfShape(s) a = MatMul(x, W) y = Add(a, o) }}",
    "filled with ones": f"""g {MATRIX} {{
        s = Shape(x) o = ConstantOfShape<value = float[1] {{1.0}}>(s) a = MatMul(x, W) y = Add(a, o) }}""",
    "constant nodes": f"""g {MATRIX} {{
        two = Constant<value = float {{2.0}}>() one = Constant<value_float = 1.5>()
        a = MatMul(x, W) c = Mul(a, two) y = Add(c, one) }}""",
    "body": f"""g {MATRIX} <bool yes = {{1}}> {{
        a = MatMul(x, W) r = Relu(a)
        i = If(yes) <then_branch = t () => (float[2, 64] u) {{ u = Add(a, b) }},
                     else_branch = f () => (float[2, 64] v) {{ v = Neg(a) }}>
        c = MatMul(i, W) y = Add(c, r) }}""",
    "image": f"""g {IMAGE} <float[4] scales = {{1, 1, 2, 2}}, float lo = {{0}}, float hi = {{6}}> {{
        c = Conv<pads = [1, 1, 1, 1]>(x, K) r = Clip(c, lo, hi)
        y = Resize<mode = "linear">(r, , scales) }}""",
    "split and join": f"""g {MATRIX} {{
        a = MatMul(x, W) l, r = Split<axis = 1, num_outputs = 2>(a) y = Concat<axis = 1>(r, l) }}""",
    "range": f"""g {MATRIX} <float o = {{0}}, float n = {{64}}, float d = {{1}}> {{
        s = Range(o, n, d) a = MatMul(x, W) t = Div(s, n) y = Mul(a, t) }}""",
    "codes": f"""g {MATRIX} <float s = {{0.05}}, int8 z = {{0}}> {{
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, W) }}""",
    "largest": """g (float[2, 64] x) => (float[2, 4] y, int64[2, 4] i) <int64[1] k = {4}> {
        a = MatMul(x, W) y, i = TopK(a, k) }""",
    "passed through": """g (float[2, 64] x, float[2, 64] z) => (float[2, 64] y, float[2, 64] z) {
        y = MatMul(x, W) }""",
    "no floats": "g (int64[2] x) => (int64[2] y) { y = Add(x, x) }",
}


def named(text: str) -> onnx.ModelProto:
    """A graph whose nodes are called after what they make."""
    opset = 13 if "Clip" not in text and "num_outputs" not in text and "QuantizeLinear" not in text else 19
    proto = model(text, opset, 8)
    used = {name for node in proto.graph.node for name in node.input}
    inner = text if "If(" in text else ""
    proto.graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in CONSTANTS.items()
        if name in used or f", {name})" in inner
    )
    for node in proto.graph.node:
        node.name = f"make_{node.output[0]}"
    return proto


def feeds(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        made = rng.standard_normal([dim.dim_value for dim in kind.shape.dim])
        found[value.name] = made.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return found


def run(proto: onnx.ModelProto, fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, fed), strict=True))


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.astype(float) - expected) / np.linalg.norm(expected.astype(float)))


def check_casts(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """At most one new Cast for a tensor and a type, and none on the output of another."""
    old = {node.name for node in before.graph.node}
    new = [node for node in after.graph.node if node.op_type == "Cast" and node.name not in old]
    assert max(Counter((n.input[0], n.attribute[0].i) for n in new).values(), default=0) <= 1
    assert not {n.output[0] for n in new} & {n.input[0] for n in new}


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    infos = (*inferred.input, *inferred.output, *inferred.value_info)
    stored = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    return stored | {info.name: info.type.tensor_type.elem_type for info in infos}


def computes_in(proto: onnx.ModelProto, node: str) -> int:
    """The element type of the first input of a node."""
    return types_of(proto)[next(n for n in proto.graph.node if n.name == node).input[0]]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_float16_graph_loads_and_computes_the_same(name):
    proto = named(GRAPHS[name])
    before = proto.SerializeToString()
    halved = to_half(proto, {}).proto
    assert proto.SerializeToString() == before
    onnx.checker.check_model(halved, full_check=True)
    check_casts(proto, halved)
    assert [(i.name, i.type) for i in halved.graph.input] == [(i.name, i.type) for i in proto.graph.input]
    assert [(o.name, o.type) for o in halved.graph.output] == [(o.name, o.type) for o in proto.graph.output]
    assert {n.name for n in proto.graph.node if n.op_type != "Constant"} <= {
        n.name for n in halved.graph.node
    }
    fed = feeds(proto)
    expected, found = run(proto, fed), run(halved, fed)
    for key, value in expected.items():
        if value.dtype == np.float32:
            assert distance(found[key], value) <= 1e-2
        else:
            np.testing.assert_array_equal(found[key], value)
    assert holds_half(halved) == (name != "no floats")


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_keeps_all_in_float32_has_no_cast(name):
    proto = named(GRAPHS[name])
    everything = [n for node in proto.graph.node for n in (*node.input, *node.output) if n]
    halved = to_half(proto, dict.fromkeys(everything, np.inf)).proto
    onnx.checker.check_model(halved, full_check=True)
    constants = {t.name for t in halved.graph.initializer if t.data_type == HALF}
    assert not constants
    assert not any(n.op_type == "Cast" and n.attribute[0].i == HALF for n in halved.graph.node)


def test_weights_are_float16_and_their_names_stay():
    halved = to_half(named(GRAPHS["chain"]), {}).proto
    assert {t.name: t.data_type for t in halved.graph.initializer} == {"W": HALF, "b": HALF}
    ops = [node.op_type for node in halved.graph.node]
    assert ops == ["Cast", "MatMul", "Add", "Relu", "MatMul", "Cast"]


def test_a_layer_norm_of_single_operators_stays_float32_as_a_whole():
    halved = to_half(named(GRAPHS["norm"]), {})
    core = {f"make_{name}" for name in "mdqvesn"}
    assert set(halved.kept) == core
    assert set(halved.kept.values()) == {"part of a normalisation"}
    assert computes_in(halved.proto, "make_h") == computes_in(halved.proto, "make_y") == HALF


def test_values_beyond_the_range_keep_their_nodes():
    proto = named(GRAPHS["chain"])
    halved = to_half(proto, {"x": 1.0, "a": 31000.0, "c": 29000.0})
    assert halved.kept == {"make_a": "values above 30000", "make_c": "values above 30000"}
    assert computes_in(halved.proto, "make_y") == HALF
    assert "2 nodes, such as make_a" in halved.notes()[0]
    assert set(to_half(proto, {"a": np.nan}).kept) == {"make_a", "make_c"}
    faint = to_half(proto, {"a": 1e-4, "c": 1e-3}).kept
    assert faint == {"make_a": "values below 0.00012207", "make_c": "values below 0.00012207"}


def test_what_reads_a_faint_constant_s_product_reads_it_in_float32():
    text = f"g {MATRIX} <float k = {{1e-7}}> {{ c = Mul(W, k) a = MatMul(x, c) y = Mul(a, b) }}"
    proto = named(text)
    halved = to_half(proto, {})
    assert set(halved.kept) == {"make_c", "make_a"}
    onnx.checker.check_model(halved.proto, full_check=True)
    assert np.any(run(halved.proto, feeds(proto))["y"])


def test_a_mask_beyond_the_range_is_added_in_float32_and_moved_in_it():
    text = """g (float[2, 64] x, bool[2, 64] m) => (float[2, 64] y) <float low = {-3e38}, float no = {0}> {
        w = Where(m, low, no) i = Identity(w) a = MatMul(x, W) s = Add(a, i) y = Mul(s, no) }"""
    halved = to_half(named(text), {})
    assert set(halved.kept) == {"make_w", "make_i", "make_s"}
    onnx.checker.check_model(halved.proto, full_check=True)


@pytest.mark.parametrize(("value", "stays"), [(1e-12, True), (7e4, True), (-7e4, True), (1e-3, False)])
def test_constants_that_float16_does_not_hold(value, stays):
    text = f"g {MATRIX} <float k = {{{value}}}> {{ a = MatMul(x, W) y = Add(a, k) }}"
    assert ("make_y" in to_half(named(text), {}).kept) == stays


def test_a_few_values_of_a_weight_may_vanish_and_infinity_is_one_value():
    proto = named(GRAPHS["chain"])
    spoilt = CONSTANTS["W"].copy()
    spoilt[0, :3] = 1e-20
    spoilt[0, 3] = np.inf
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(spoilt, "W"))
    assert to_half(proto, {}).kept == {}


def test_unknown_operators_and_what_they_make_stay_float32():
    proto = named(f"g {MATRIX} {{ a = MatMul(x, W) u = Strange(a) c = Relu(u) y = MatMul(a, W) }}")
    proto.graph.node[1].domain = "somebody"
    proto.opset_import.append(onnx.helper.make_opsetid("somebody", 1))
    halved = to_half(proto, {})
    assert set(halved.kept) == {"make_u", "make_c"}
    node = next(n for n in halved.proto.graph.node if n.name == "make_u")
    maker = next(n for n in halved.proto.graph.node if n.output[0] == node.input[0])
    assert (maker.op_type, maker.attribute[0].i) == ("Cast", FLOAT)


def test_bodies_keep_their_names_and_read_float32():
    halved = to_half(named(GRAPHS["body"]), {}).proto
    kinds = types_of(halved)
    assert kinds["a"] == FLOAT
    assert kinds["a_half"] == HALF
    node = next(n for n in halved.graph.node if n.op_type == "If")
    assert [n.input[0] for a in node.attribute for n in a.g.node] == ["a", "a"]
    assert {t.name: t.data_type for t in halved.graph.initializer}["b"] == FLOAT


def test_the_scales_of_a_resize_stay_float32():
    halved = to_half(named(GRAPHS["image"]), {}).proto
    assert types_of(halved)["scales"] == FLOAT
    assert computes_in(halved, "make_y") == HALF


def test_the_operators_of_onnx_s_own_test_cases_survive():
    """Each 9th test case of ONNX itself: where the float32 graph runs, so does the other, to the same end."""
    ran = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None)[::9] if case.model is not None]
        for case in cases:
            proto, names = case.model, [value.name for value in case.model.graph.input]
            try:
                fed = dict(zip(names, case.data_sets[0][0], strict=True))
                expected = run(proto, fed)
            except RUNTIME_ERRORS:
                continue
            found = run(to_half(proto, {}).proto, fed)
            for key, value in expected.items():
                if isinstance(value, np.ndarray) and value.dtype == np.float32 and np.isfinite(value).all():
                    assert np.linalg.norm(found[key] - value) <= 1e-2 * np.linalg.norm(value), case.name
                    ran += 1
    assert ran > 50


def test_a_real_network_is_half_the_size_and_as_close_as_float16_is():
    proto = to_proto(prepare(load(GLYPHS / "glyphs.onnx"), 17))
    halved = to_half(proto, {}).proto
    onnx.checker.check_model(halved, full_check=True)
    check_casts(proto, halved)
    with np.load(GLYPHS / "test.npz") as data:
        fed = {i.name: data[i.name][:8].astype(np.float32) for i in proto.graph.input}
    assert distance(run(halved, fed)["logits"], run(proto, fed)["logits"]) < 5e-3
    weights = sum(len(t.raw_data) for t in proto.graph.initializer if t.data_type == FLOAT)
    left = sum(len(t.raw_data) for t in halved.graph.initializer if t.data_type == FLOAT)
    assert left < 0.01 * weights
