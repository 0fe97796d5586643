import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from comq_onnx.errors import ComqError
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load
from comq_onnx.graph.layout import weight_values
from comq_onnx.graph.locate import node_of
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe

RNG = np.random.default_rng(0)


def rand(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def model(body, inputs, outputs, opset=17, domains=(), **weights):
    """A model from ONNX text with `weights` as its initializers."""
    imports = ", ".join(['"" : ' + str(opset), *(f'"{domain}" : 1' for domain in domains)])
    text = f"<ir_version: 10, opset_import: [{imports}]>\nnet ({inputs}) => ({outputs}) {{ {body} }}"
    parsed = parser.parse_model(text)
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return parsed


def find(proto, **fields):
    return find_layers(prepare(load(proto), 0), Recipe(**fields))


def reasons(proto, **fields):
    return {entry.weight: entry.reason for entry in find(proto, **fields)[1]}


@pytest.mark.parametrize(
    ("body", "weight", "kind", "groups", "rows", "cols"),
    [
        ("y = MatMul(x, w)", (4, 3), "matmul", 1, 4, 3),
        ("y = MatMul(w, x)", (3, 4), "matmul_left", 1, 4, 3),
        ("y = MatMul(x, w)", (5, 4, 3), "matmul", 5, 4, 3),
        ("y = MatMul(w, x)", (2, 5, 3, 4), "matmul_left", 10, 4, 3),
        ("y = Gemm <transB = 1> (x, w)", (3, 4), "matmul", 1, 4, 3),
        ("y = Conv(x, w)", (6, 4, 3), "conv", 1, 12, 6),
        ("y = Conv <group = 4> (x, w)", (4, 1, 3, 3), "conv", 4, 9, 1),
        ("y = ConvTranspose <group = 2> (x, w)", (4, 3, 2, 2, 2), "conv_transpose", 2, 16, 3),
    ],
)
def test_kinds(body, weight, kind, groups, rows, cols):
    proto = model(body, "float x", "float y", w=rand(*weight))
    del proto.graph.input[0].type.tensor_type.shape.dim[:]
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    layers, skipped = find(proto)
    (layer,) = layers
    assert skipped == []
    assert (layer.layout.kind, layer.layout.groups, layer.layout.rows, layer.layout.cols) == (
        kind,
        groups,
        rows,
        cols,
    )
    assert (layer.input, layer.output, layer.dtype) == ("x", "y", "float32")
    assert (layer.geometry is None) == (not kind.startswith("conv"))


@pytest.mark.parametrize(
    ("text", "shape", "vector"),
    [
        ("y = MatMul(x, w)", "[4]", True),
        ("y = MatMul(w, x)", "[4]", True),
        ("y = MatMul(x, w)", "[1, 4]", False),
        ("y = MatMul(x, w)", "", False),
    ],
)
def test_a_vector_is_told_from_a_matrix(text, shape, vector):
    proto = model(text, f"float{shape} x", "float y", w=rand(4, 4))
    assert find(proto)[0][0].layout.vector == vector


def test_geometry_is_that_of_the_node():
    attrs = 'strides = [2, 1], dilations = [1, 2], pads = [0, 1, 2, 3], group = 2, auto_pad = "NOTSET"'
    proto = model(
        f"y = Conv <{attrs}> (x, w)", "float[1, 4, 9, 9] x", "float[a, b, c, d] y", w=rand(6, 2, 3, 2)
    )
    geometry = find(proto)[0][0].geometry
    assert geometry.kernel == (3, 2)
    assert geometry.strides == (2, 1)
    assert geometry.dilations == (1, 2)
    assert geometry.pads == (0, 1, 2, 3)
    assert (geometry.group, geometry.auto_pad, geometry.transposed) == (2, "NOTSET", False)
    proto = model(
        'y = ConvTranspose <auto_pad = "SAME_UPPER", output_padding = [1], output_shape = [9]> (x, w)',
        "float[1, 4, 5] x",
        "float[a, b, c] y",
        w=rand(4, 2, 3),
    )
    geometry = find(proto)[0][0].geometry
    assert (geometry.strides, geometry.dilations, geometry.pads) == ((1,), (1,), (0, 0))
    assert (geometry.auto_pad, geometry.output_padding, geometry.output_shape) == ("SAME_UPPER", (1,), (9,))
    assert geometry.transposed


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_element_types(dtype):
    name = {"float16": "float16", "bfloat16": "bfloat16", "float64": "double"}[np.dtype(dtype).name]
    proto = model("y = MatMul(x, w)", f"{name}[2, 4] x", f"{name}[2, 3] y", w=rand(4, 3, dtype=dtype))
    ready = prepare(load(proto), 0)
    (layer,), _ = find_layers(ready, Recipe())
    assert layer.dtype == np.dtype(dtype).name
    values = weight_values(ready, layer)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(
        values, numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float64)
    )
    assert node_of(ready, layer)[0].name == layer.name


def test_layers_come_in_order_of_execution():
    proto = model(
        "a = MatMul(x, w) b = Relu(a) c = MatMul(b, u) y = MatMul(c, v)",
        "float[2, 4] x",
        "float[2, 4] y",
        u=rand(4, 4),
        v=rand(4, 4),
        w=rand(4, 4),
    )
    assert [layer.weight for layer in find(proto)[0]] == ["w", "u", "v"]


def test_embeddings_need_the_flag():
    proto = model("y = Gather(table, ids)", "int64[3] ids", "float[3, 4] y", table=rand(50, 4))
    layers, (entry,) = find(proto)
    assert layers == []
    assert entry.reason == "embedding table: use --quantize-embeddings"
    assert (entry.op, entry.shape, entry.bytes) == ("Gather", (50, 4), 800)
    (layer,), skipped = find(proto, quantize_embeddings=True)
    assert skipped == []
    assert (layer.layout.kind, layer.layout.rows, layer.layout.cols, layer.input) == ("gather", 4, 50, "ids")


def test_a_gather_that_is_no_lookup_stays():
    proto = model("y = Gather <axis = 1> (table, ids)", "int64[3] ids", "float[50, 3] y", table=rand(50, 4))
    assert reasons(proto, quantize_embeddings=True) == {"table": "Gather does not look up rows of a table"}


def test_recurrent_weights_are_listed_however_they_are_made():
    proto = model(
        """a, b = LSTM <hidden_size = 2> (x, w, r)
           t = Concat <axis = 0> (p, q) y, z = GRU <hidden_size = 2> (x, t, s)""",
        "float[3, 1, 4] x",
        "float[3, 1, 1, 2] y",
        w=rand(1, 8, 4),
        r=rand(1, 8, 2),
        p=rand(1, 6, 4)[:, :2],
        q=rand(1, 6, 4),
        s=rand(1, 6, 2),
    )
    found = reasons(proto)
    assert found["w"] == found["r"] == "LSTM weights are not supported"
    assert found["q"] == found["s"] == "GRU weights are not supported"


def test_other_reasons():
    proto = model(
        """a = Einsum <equation = "ij,jk->ik"> (x, e)
           b = Add(a, position)
           c = com.acme.Fused(b, custom)
           d = MatMul(c, vector)
           f = MatMul(left, left2)
           s = Softplus(m) g = MatMul(x, s)
           y = Relu(g)""",
        "float[2, 4] x",
        "float[2, 4] y",
        domains=("com.acme",),
        e=rand(4, 4),
        position=rand(512, 4),
        custom=rand(64, 64),
        vector=rand(2000),
        left=rand(4, 4),
        left2=rand(4, 4),
        m=rand(4, 4),
    )
    layers, skipped = find(proto)
    assert layers == []
    assert {entry.weight: entry.reason for entry in skipped} == {
        "e": "Einsum weights are not supported",
        "position": "operand of Add, not a weight",
        "custom": "custom operator com.acme::Fused is left alone",
        "vector": "a vector, not a matrix",
        "m": "weight is computed at run time by Softplus",
    }


def test_weights_that_come_with_the_input_are_listed():
    proto = model(
        "a = Conv(x, k) b = ConvTranspose(a, t) y = MatMul(b, b)",
        "float[1, 4, 4] x, float[4, 4, 1] k, float[4, 4, 1] t",
        "float[1, 4, 4] y",
    )
    layers, skipped = find(proto)
    assert layers == []
    assert [(s.op, s.weight, s.shape, s.reason) for s in skipped] == [
        ("Conv", "k", (4, 4, 1), "weight is computed at run time"),
        ("ConvTranspose", "t", (4, 4, 1), "weight is computed at run time"),
    ]


def test_quantized_weights_are_recognised():
    codes = RNG.integers(-100, 100, (4, 4)).astype(np.int8)
    proto = model(
        """w = DequantizeLinear(q, s) a = MatMul(x, w)
           c = Cast <to = 1> (r) u = Mul(c, s) b = MatMul(a, u)
           f = QuantizeLinear(v, s) g = DequantizeLinear(f, s) d = MatMul(b, g)
           i = MatMulInteger(e, p) y = Cast <to = 1> (i)""",
        "float[4, 4] x, int8[4, 4] e",
        "float[4, 4] y, float[4, 4] d",
        q=codes,
        r=codes,
        p=codes,
        v=rand(4, 4),
        s=np.float32(0.1),
    )
    layers, skipped = find(proto)
    assert layers == []
    assert {entry.weight: entry.reason for entry in skipped} == dict.fromkeys("qrvp", "already quantized")


def test_a_weight_without_elements_stays():
    proto = model("y = MatMul(x, w)", "float[2, 4] x", "float[2, 0] y", w=np.zeros((4, 0), np.float32))
    assert reasons(proto) == {"w": "weight has no elements"}


def test_sequences_and_optionals_do_not_disturb():
    proto = model(
        "e = SequenceAt(s, i) y = MatMul(e, w) n = SequenceLength(s)",
        "seq(float[2, 4]) s, int64 i",
        "float[2, 3] y, int64 n",
        w=rand(4, 3),
    )
    assert [layer.weight for layer in find(proto)[0]] == ["w"]


def two_layers():
    proto = model(
        "a = MatMul(x, w) y = Gemm(a, u)", "float[2, 4] x", "float[2, 4] y", w=rand(4, 4), u=rand(4, 4)
    )
    proto.graph.node[0].name, proto.graph.node[1].name = "/encoder/query", "/head"
    return proto


def test_selection():
    assert [la.name for la in find(two_layers(), nodes_to_quantize=("query$",))[0]] == ["/encoder/query"]
    assert reasons(two_layers(), nodes_to_quantize=("query$",)) == {
        "u": "not selected by --nodes-to-quantize"
    }
    assert reasons(two_layers(), nodes_to_exclude=("head",)) == {"u": "excluded by --nodes-to-exclude"}
    assert reasons(two_layers(), op_types_to_quantize=("Gemm",)) == {
        "w": "not selected by --op-types-to-quantize"
    }
    layers, skipped = find(two_layers(), nodes_to_quantize=("/",), nodes_to_exclude=("head", "enc"))
    assert layers == []
    assert len(skipped) == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nodes_to_quantize": ("decoder",)}, "--nodes-to-quantize: 'decoder' matches no quantizable node"),
        ({"nodes_to_exclude": ("decoder",)}, "--nodes-to-exclude: 'decoder' matches no quantizable node"),
        ({"nodes_to_exclude": ("(",)}, "--nodes-to-exclude: '(' is not a regular expression"),
        (
            {"op_types_to_quantize": ("Conv",)},
            "--op-types-to-quantize: no quantizable node has the type 'Conv'",
        ),
    ],
)
def test_a_selection_that_matches_nothing_is_an_error(fields, words):
    with pytest.raises(ComqError) as caught:
        find(two_layers(), **fields)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_weight_that_is_not_finite_is_an_error_only_where_it_counts(bad, dtype):
    weight = rand(4, 4, dtype=dtype)
    weight[1, 2] = bad
    proto = two_layers()
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), "u"))
    with pytest.raises(ComqError, match=r"weight 'u' of node '/head': it contains NaN or Inf"):
        find(proto)
    assert len(find(proto, nodes_to_exclude=("head",))[0]) == 1


def test_float8_weights_are_listed():
    weight = helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [4, 4], bytes(16), raw=True)
    proto = model("y = com.acme.Fp8MatMul(x, w)", "float[2, 4] x", "float[2, 4] y", domains=("com.acme",))
    proto.graph.initializer.append(weight)
    assert find(proto)[0] == []


def test_a_weight_made_by_a_generator_is_listed():
    body = "w = ConstantOfShape(shape) y = Conv<pads=[1,1,1,1]>(x, w)"
    io = ("float[B,3,8,8] x", "float[B,4,8,8] y")
    assert reasons(model(body, *io, shape=np.array([4, 3, 3, 3]))) == {
        "w": "weight is computed at run time by ConstantOfShape"
    }


def embedding(axis=0):
    body = f"e = Gather <axis = {axis}> (table, ids) y = MatMul(e, w)"
    io = ("int64[2, 4] ids", "float[a, b, c] y")
    proto = model(body, *io, table=rand(4, 4), w=rand(4, 3))
    proto.graph.node[0].name, proto.graph.node[1].name = "tokens", "head"
    return proto


@pytest.mark.parametrize("width", ["int8", "int4:32", "float16"])
def test_a_rule_selects_an_embedding(width):
    layers, skipped = find(embedding(), rules=(f"tokens={width}",))
    assert [layer.name for layer in layers] == ["tokens", "head"]
    assert skipped == []


def test_an_embedding_that_no_rule_names_is_selected_as_before():
    assert reasons(embedding(), rules=("head=int8",)) == {
        "table": "embedding table: use --quantize-embeddings"
    }
    with pytest.raises(ComqError, match="--nodes-to-exclude: 'tokens' matches no quantizable node"):
        find(embedding(), nodes_to_exclude=("tokens",))
    assert reasons(embedding(), rules=("tokens=int8",), op_types_to_quantize=("MatMul",)) == {
        "table": "not selected by --op-types-to-quantize"
    }


def test_a_rule_has_no_form_for_columns_of_a_table():
    with pytest.raises(ComqError, match="--rule: 'tokens' matches no quantizable node"):
        find(embedding(axis=1), rules=("tokens=int8",))


def test_a_weight_that_a_rule_keeps_float_need_not_be_finite():
    proto = two_layers()
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.full((4, 4), np.nan, np.float32), "u"))
    assert reasons(proto, keep_float=("head",)) == {"u": "kept float by --keep-float"}
    assert reasons(proto, rules=("head=float",)) == {"u": "kept float by --rule"}
