"""Where a compensating bias goes, and that the sum is right wherever it goes."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from graphs import model, weight
from onnx import helper, numpy_helper

from comq_onnx.graph.edit import fold_bias, replace_weight
from comq_onnx.graph.io import Model, load, to_proto
from comq_onnx.graph.layout import layout_of
from comq_onnx.graph.tensors import float_tensor
from comq_onnx.records import Layer

X_MATRIX, X_IMAGE = (5, 16), (2, 4, 5, 5)
MATMUL, CONV = ("matmul", (16, 6), "MatMul"), ("conv", (6, 4, 2, 2), "Conv")
GEMM, LEFT = ("matmul", (16, 6), "Gemm"), ("matmul_left", (6, 16), "MatMul")
BATCHED, TRANSPOSED = ("matmul", (3, 16, 6), "MatMul"), ("conv_transpose", (4, 6, 2, 2), "ConvTranspose")
KERNEL = "<kernel_shape = [2, 2]>"
MATRIX_IN, IMAGE_IN = "(float[5, 16] x) => (float[5, 6] y)", "(float[2, 4, 5, 5] x) => (float[2, 6, 4, 4] y)"

# What the layer is, the graph, its constants besides W, the answer, and how many nodes are added.
CASES = {
    "conv without bias": (CONV, f"{IMAGE_IN} {{ y = Conv{KERNEL}(x, W) }}", {}, "new bias of n", 0),
    "conv with bias": (CONV, f"{IMAGE_IN} {{ y = Conv{KERNEL}(x, W, B) }}", {"B": (6,)}, "bias of n", 0),
    "conv with a computed bias": (
        CONV,
        f"{IMAGE_IN} {{ y = Conv{KERNEL}(x, W, b) b = Exp(B) }}",
        {"B": (6,)},
        "new Add n_bias_compensation",
        1,
    ),
    "conv_transpose": (
        TRANSPOSED,
        f"(float[2, 4, 5, 5] x) => (float[2, 6, 6, 6] y) {{ y = ConvTranspose{KERNEL}(x, W) }}",
        {},
        "new bias of n",
        0,
    ),
    "gemm without C": (GEMM, f"{MATRIX_IN} {{ y = Gemm(x, W) }}", {}, "new bias of n", 0),
    "gemm with C": (GEMM, f"{MATRIX_IN} {{ y = Gemm(x, W, C) }}", {"C": (6,)}, "bias of n", 0),
    "gemm with a row": (GEMM, f"{MATRIX_IN} {{ y = Gemm(x, W, C) }}", {"C": (1, 6)}, "bias of n", 0),
    "gemm with a scalar": (GEMM, f"{MATRIX_IN} {{ y = Gemm(x, W, C) }}", {"C": ()}, "bias of n", 0),
    "gemm with a matrix": (
        GEMM,
        f"{MATRIX_IN} {{ y = Gemm(x, W, C) }}",
        {"C": (5, 6)},
        "new Add n_bias_compensation",
        1,
    ),
    "gemm with beta": (
        GEMM,
        f"{MATRIX_IN} {{ y = Gemm<beta = 0.5>(x, W, C) }}",
        {"C": (6,)},
        "new Add n_bias_compensation",
        1,
    ),
    "add of a constant": (
        MATMUL,
        f"{MATRIX_IN} {{ h = MatMul(x, W) y = Add(h, C) }}",
        {"C": (6,)},
        "Add a",
        0,
    ),
    "constant first": (
        MATMUL,
        f"{MATRIX_IN} {{ h = MatMul(x, W) y = Add(C, h) }}",
        {"C": (1, 6)},
        "Add a",
        0,
    ),
    "add of a scalar": (MATMUL, f"{MATRIX_IN} {{ h = MatMul(x, W) y = Add(h, C) }}", {"C": (1,)}, "Add a", 0),
    "add of a matrix": (
        MATMUL,
        f"{MATRIX_IN} {{ h = MatMul(x, W) y = Add(h, C) }}",
        {"C": (5, 6)},
        "new Add n_bias_compensation",
        1,
    ),
    "add of an activation": (
        MATMUL,
        f"{MATRIX_IN} {{ h = MatMul(x, W) r = Mul(C, C) y = Add(h, r) }}",
        {"C": (6,)},
        "new Add n_bias_compensation",
        1,
    ),
    "no add": (MATMUL, f"{MATRIX_IN} {{ y = MatMul(x, W) }}", {}, "new Add n_bias_compensation", 1),
    "two readers": (
        MATMUL,
        "(float[5, 16] x) => (float[5, 6] y, float[5, 6] z) { h = MatMul(x, W) y = Add(h, C) z = Sub(h, C) }",
        {"C": (6,)},
        "new Add n_bias_compensation",
        1,
    ),
    "a graph output with an add": (
        MATMUL,
        "(float[5, 16] x) => (float[5, 6] h, float[5, 6] y) { h = MatMul(x, W) y = Add(h, C) }",
        {"C": (6,)},
        "new Add n_bias_compensation",
        1,
    ),
    "left side": (
        LEFT,
        "(float[16, 5] x) => (float[6, 5] y) { y = MatMul(W, x) }",
        {},
        "new Add n_bias_compensation",
        1,
    ),
    "left side with an add": (
        LEFT,
        "(float[16, 5] x) => (float[6, 5] y) { h = MatMul(W, x) y = Add(h, C) }",
        {"C": (6, 1)},
        "Add a",
        0,
    ),
    "left side with an add over columns": (
        LEFT,
        "(float[16, 5] x) => (float[6, 5] y) { h = MatMul(W, x) y = Add(h, C) }",
        {"C": (5,)},
        "new Add n_bias_compensation",
        1,
    ),
    "batched": (
        BATCHED,
        "(float[3, 5, 16] x) => (float[3, 5, 6] y) { y = MatMul(x, W) }",
        {},
        "new Add n_bias_compensation",
        1,
    ),
    "batched with an add": (
        BATCHED,
        "(float[3, 5, 16] x) => (float[3, 5, 6] y) { h = MatMul(x, W) y = Add(h, C) }",
        {"C": (6,)},
        "Add a",
        0,
    ),
}


def build(layer_kind, text, constants, dtype=np.float32) -> tuple[onnx.ModelProto, Model, Layer]:
    kind, shape, op = layer_kind
    values = {n: np.asarray(weight(*s, seed=len(n) + 5) if s else 0.5, dtype) for n, s in constants.items()}
    values["W"] = weight(*shape, seed=1, dtype=dtype)
    if dtype == np.float16:
        text = text.replace("float", "float16")
    proto = model(f"g {text}", opset=21, ir_version=10, **values)
    if any(n.input[2:] == ["b"] for n in proto.graph.node):
        proto.graph.node.insert(0, proto.graph.node.pop())
    source = load(proto)
    for node in source.graph.nodes:
        node.name = {op: "n", "Add": "a"}.get(node.op, node.op)
    node = next(n for n in source.graph.nodes if n.name == "n")
    layout = layout_of(kind, shape)
    name = {np.float32: "float32", np.float16: "float16"}[dtype]
    return proto, source, Layer("n", op, "W", "x", node.outputs[0].name, layout, name)


def run(proto, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def feed(proto, dtype=np.float32):
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(2).standard_normal(shape).astype(dtype)


def added(layer, bias):
    """The bias as it meets the output, written down from the layouts."""
    if layer.layout.kind in ("conv", "conv_transpose"):
        return bias.reshape(-1, 1, 1)
    if layer.layout.kind == "matmul_left":
        return bias.reshape(-1, 1)
    return bias.reshape(3, 1, 6) if layer.layout.groups == 3 else bias[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", CASES)
def test_the_bias_is_added_once_and_in_its_place(name, dtype):
    kind, text, constants, answer, more = CASES[name]
    proto, source, layer = build(kind, text, constants, dtype)
    bias = np.arange(1.0, 1 + layer.layout.groups * 6).reshape(layer.layout.groups, 6) / 4
    assert fold_bias(source, layer, bias) == answer
    written = to_proto(source)
    onnx.checker.check_model(written, full_check=True)
    assert len(written.graph.node) == len(proto.graph.node) + more
    assert list(written.graph.input) == list(proto.graph.input)
    assert list(written.graph.output) == list(proto.graph.output)
    x = feed(proto, dtype)
    for before, after in zip(run(proto, x), run(written, x), strict=True):
        tolerance = 1e-5 if dtype == np.float32 else 2e-2
        expected = before.astype(np.float64) + added(layer, bias)
        np.testing.assert_allclose(after.astype(np.float64), expected, atol=tolerance)


@pytest.mark.parametrize("bias", [None, np.zeros((1, 6))])
@pytest.mark.parametrize("name", CASES)
def test_no_bias_changes_nothing(name, bias):
    kind, text, constants, *_ = CASES[name]
    _, source, layer = build(kind, text, constants)
    before = to_proto(source).SerializeToString()
    assert fold_bias(source, layer, bias) == ""
    assert to_proto(source).SerializeToString() == before


def test_a_constant_that_others_read_is_copied():
    text = "(float[5, 16] x) => (float[5, 6] y, float[6] z) { h = MatMul(x, W) y = Add(h, C) z = Neg(C) }"
    proto, source, layer = build(MATMUL, text, {"C": (6,)})
    assert fold_bias(source, layer, np.ones((1, 6))) == "Add a"
    before, after = run(proto, feed(proto)), run(to_proto(source), feed(proto))
    np.testing.assert_allclose(after[0], before[0] + 1, rtol=1e-5)
    np.testing.assert_array_equal(after[1], before[1])


def test_an_unread_third_input_of_a_conv_is_filled():
    proto, source, layer = build(CONV, f"{IMAGE_IN} {{ y = Conv{KERNEL}(x, W) }}", {})
    source.graph.nodes[0].inputs.append(gs.Variable.empty())
    assert fold_bias(source, layer, np.ones((1, 6))) == "new bias of n"
    x = feed(proto)
    np.testing.assert_allclose(run(to_proto(source), x)[0], run(proto, x)[0] + 1, rtol=1e-4, atol=1e-6)


def test_the_sum_is_rounded_once():
    _, source, layer = build(GEMM, f"{MATRIX_IN} {{ y = Gemm(x, W, C) }}", {"C": (6,)}, np.float16)
    held = next(numpy_helper.to_array(t) for t in to_proto(source).graph.initializer if t.name == "C")
    bias = np.linspace(1e-4, 1e-3, 6)[None]
    fold_bias(source, layer, bias)
    after = next(numpy_helper.to_array(t) for t in to_proto(source).graph.initializer if t.name == "C")
    np.testing.assert_array_equal(after, (held.astype(np.float64) + bias[0]).astype(np.float16))


def test_taken_names_are_stepped_over():
    text = "(float[5, 16] x) => (float[5, 6] y) { y_uncompensated = MatMul(x, W) y = Neg(y_uncompensated) }"
    _, source, layer = build(MATMUL, text, {})
    source.graph.nodes[1].name = "n_bias_compensation"
    assert fold_bias(source, layer, np.ones((1, 6))) == "new Add n_bias_compensation_1"
    onnx.checker.check_model(to_proto(source), full_check=True)


def test_an_embedding_has_no_bias():
    layer = Layer("n", "Gather", "W", "x", "y", layout_of("gather", (9, 6)), "float32")
    proto = model("g (int64[S] x) => (float[S, 6] y) { y = Gather(W, x) }", W=weight(9, 6))
    source = load(proto)
    source.graph.nodes[0].name = "n"
    with pytest.raises(ValueError, match="no bias"):
        fold_bias(source, layer, np.ones((1, 9)))


def test_a_float_weight_that_nobody_reads_is_gone():
    proto, source, layer = build(MATMUL, f"{MATRIX_IN} {{ y = MatMul(x, W) }}", {})
    made = gs.Variable("W2")
    stored = float_tensor("V", weight(16, 6, seed=9), "float32")
    replace_weight(source, layer, [gs.Node("Identity", "i", inputs=[stored], outputs=[made])], made)
    written = to_proto(source)
    assert [t.name for t in written.graph.initializer] == ["V"]
    assert [n.op_type for n in written.graph.node] == ["Identity", "MatMul"]
    x = feed(proto)
    np.testing.assert_allclose(run(written, x)[0], x @ weight(16, 6, seed=9), rtol=1e-4, atol=1e-5)


def test_inside_a_branch():
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["p"], "n")],
        "t",
        [],
        [helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, [5, 6])],
    )
    proto = model(
        "g (float[5, 16] x) => (float[5, 6] y) { c = Cast<to = 9>(K) y = Identity(c) }",
        opset=21,
        ir_version=10,
        K=np.array(1.0, np.float32),
        W=weight(16, 6),
    )
    other = onnx.GraphProto()
    other.CopyFrom(then)
    other.node[0].name, other.node[0].output[0], other.output[0].name = "m", "q", "q"
    branch = helper.make_node("If", ["c"], ["y"], "if", then_branch=then, else_branch=other)
    proto.graph.node[1].CopyFrom(branch)
    source = load(proto)
    layer = Layer("n", "MatMul", "W", "x", "p", layout_of("matmul", (16, 6)), "float32", in_subgraph=True)
    assert fold_bias(source, layer, np.ones((1, 6))) == "new Add n_bias_compensation"
    written = to_proto(source)
    onnx.checker.check_model(written, full_check=True)
    x = feed(proto)
    np.testing.assert_allclose(run(written, x)[0], run(proto, x)[0] + 1, rtol=1e-5, atol=1e-6)
