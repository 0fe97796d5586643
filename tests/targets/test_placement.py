"""What is stored in 8 bits and what is not, one pattern of neighbours after the other."""

import numpy as np
import pytest
from graphs import model, weight
from targets.storing import placed

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.targets import TARGETS

INF = float("inf")


def net(body: str, head: str = "float[B, 8, 12, 12] x", opset: int = 17, tail: str = "float[] y", **weights):
    return model(f"g ({head}) => ({tail}) {{ {body} }}", opset, **weights)


def readers(proto, target="ort", **how):
    """Readers of the stored form by tensor; nodes are called by what they make."""
    model, placement = placed(proto, target, **how)
    called = {node.name: node.outputs[0].name for node in model.graph.nodes}
    return {
        value.tensor: None if value.readers is None else tuple(called[name] for name in value.readers)
        for value in placement.values
    }


def groups(proto, target="ort"):
    """Sets of two and more tensors that share a grid."""
    found = {}
    for value in placed(proto, target)[1].values:
        found.setdefault(value.group, set()).add(value.tensor)
    return sorted(sorted(names) for names in found.values() if len(names) > 1)


def limits(proto, target="ort", **how):
    return {v.tensor: (v.low, v.high) for v in placed(proto, target, **how)[1].values}


def reasons(proto, target="ort", **how):
    """Why layers stay float, by what they make."""
    model, placement = placed(proto, target, **how)
    called = {node.name: node.outputs[0].name for node in model.graph.nodes}
    return {called.get(name, name): why for name, why in placement.reasons.items()}


CONV = "Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
RESIDUAL = f"""
  a = {CONV}(x, W1, b1)
  r = Relu(a)
  c = {CONV}(r, W2, b2)
  s = Add(c, x2)
  t = Relu(s)
  y = {CONV}(t, W3, b3)
"""
SQUARE = {f"W{i}": weight(8, 8, 3, 3, seed=i) for i in (1, 2, 3)}
BIASES = {f"b{i}": weight(8, seed=i) for i in (1, 2, 3)}


def residual():
    stem = f"x1 = {CONV}(x, W0) x2 = Relu(x1) "
    body = stem + RESIDUAL.replace("(x, W1", "(x2, W1")
    return net(body, W0=weight(8, 8, 3, 3, seed=9), **SQUARE, **BIASES)


def test_a_residual_block_is_stored_value_by_value():
    assert readers(residual()) == {"x": ("x1",), "x2": None, "r": None, "c": None, "t": None, "y": None}
    assert limits(residual())["t"] == (0.0, INF)
    assert limits(residual())["c"] == (-INF, INF)
    assert groups(residual()) == []


def test_portable_leaves_convolutions_in_float_and_says_why():
    assert readers(residual(), "portable") == {}
    assert reasons(residual(), "portable")["a"] == "no form of an 8-bit Conv is fast in every runtime"


def test_the_add_stays_float_where_one_side_of_it_is():
    body = f"a = {CONV}(x, W1) e = Exp(x) s = Add(a, e) y = {CONV}(s, W2)"
    found = readers(net(body, **{k: SQUARE[k] for k in ("W1", "W2")}))
    assert found == {"x": ("a",), "a": None, "s": ("y",), "y": None}


def test_an_add_nobody_wants_in_8_bits_stays_float():
    body = f"a = {CONV}(x, W1) b = {CONV}(x, W2) y = Add(a, b)"
    found = readers(net(body, **{k: SQUARE[k] for k in ("W1", "W2")}))
    assert found == {"x": ("a", "b"), "a": None, "b": None}


SEPARABLE = """
  d = Conv<group = 8, kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, D, b1)
  e = Clip(d, zero, six)
  p = Conv<kernel_shape = [1, 1]>(e, P, b2)
  y = Clip(p, zero, six)
"""
SEPARABLE_WEIGHTS = {
    "D": weight(8, 1, 3, 3),
    "P": weight(8, 8, 1, 1),
    "b1": weight(8, seed=1),
    "b2": weight(8, seed=2),
    "zero": np.float32(0),
    "six": np.float32(6),
}


def separable():
    return net(SEPARABLE, **SEPARABLE_WEIGHTS)


def test_depthwise_and_pointwise_convolutions_with_their_clips():
    assert readers(separable()) == {"x": ("d",), "e": None, "y": None}
    assert limits(separable()) == {"x": (-INF, INF), "e": (0.0, 6.0), "y": (0.0, 6.0)}


def test_a_browser_keeps_the_convolutions_of_such_a_net_in_float():
    assert readers(separable(), "web") == {}
    assert set(reasons(separable(), "web")) == {"d", "p"}
    assert readers(separable(), "web", size_first=True) == readers(separable())
    assert readers(residual(), "web") == readers(residual())


def test_a_clip_at_a_computed_limit_is_not_absorbed():
    body = f"m = ReduceMax<keepdims = 0>(x) a = {CONV}(x, W1) y = Clip(a, zero, m)"
    found = readers(net(body, W1=SQUARE["W1"], zero=np.float32(0)))
    assert found == {"x": ("a",), "a": None}


def test_a_relu_that_is_not_alone_is_not_absorbed():
    body = f"a = {CONV}(x, W1) r = Relu(a) e = Exp(a) y = Add(r, e)"
    assert readers(net(body, W1=SQUARE["W1"])) == {"x": ("a",), "a": None}


def test_operators_that_move_values_share_a_grid():
    body = f"""
      a = {CONV}(x, W1)
      b = {CONV}(x, W2)
      m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
      n = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
      c = Concat<axis = 1>(m, n)
      f = Reshape(c, shape)
      y = MatMul(f, V)
    """
    proto = net(body, W1=SQUARE["W1"], W2=SQUARE["W2"], shape=np.array([0, -1]), V=weight(576, 4))
    assert readers(proto) == {"x": ("a", "b"), **dict.fromkeys("abmncf")}
    assert groups(proto) == [["a", "b", "c", "f", "m", "n"]]


def test_pools_that_average_have_grids_of_their_own():
    body = f"a = {CONV}(x, W1) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, V)"
    proto = net(body, W1=SQUARE["W1"], V=weight(8, 4))
    assert readers(proto) == {"x": ("a",), "r": None, "p": None, "f": None}
    assert groups(proto) == [["f", "p"]]


@pytest.mark.parametrize(("mode", "stored"), [("nearest", True), ("linear", False)])
def test_a_resize_is_carried_only_where_it_copies(mode, stored):
    body = f'a = {CONV}(x, W1) u = Resize<mode = "{mode}">(a, "", sizes) y = {CONV}(u, W2)'
    body = body.replace('""', "roi")
    weights = {"roi": np.zeros(0, np.float32), "sizes": np.array([1, 1, 2, 2], np.float32)}
    found = readers(net(body, W1=SQUARE["W1"], W2=SQUARE["W2"], **weights))
    assert found["u"] is None if stored else found["u"] == ("y",)


def test_limits_are_not_seen_through_a_resize_that_may_overshoot():
    body = f'a = Relu(x) u = Resize<mode = "cubic">(a, roi, sizes) y = {CONV}(u, W2)'
    weights = {"roi": np.zeros(0, np.float32), "sizes": np.array([1, 1, 2, 2], np.float32)}
    assert limits(net(body, W2=SQUARE["W2"], **weights))["u"] == (-INF, INF)


def test_silu_reads_the_stored_output_of_its_convolution():
    body = f"a = {CONV}(x, W1) g = Sigmoid(a) s = Mul(a, g) y = {CONV}(s, W2)"
    found = readers(net(body, W1=SQUARE["W1"], W2=SQUARE["W2"]))
    assert found == {"x": ("a",), "a": None, "s": ("y",), "y": None}


SQUEEZE = f"""
  a = {CONV}(x, W1)
  p = GlobalAveragePool(a)
  q = Conv<kernel_shape = [1, 1]>(p, S, b1)
  r = Relu(q)
  s = Conv<kernel_shape = [1, 1]>(r, E, b2)
  g = Sigmoid(s)
  m = Mul(a, g)
  y = {CONV}(m, W2)
"""
SILU = "h = Sigmoid(q) r = Mul(q, h)"
NARROW = {"S": weight(2, 8, 1, 1), "E": weight(8, 2, 1, 1), "b1": weight(2), "b2": weight(8)}


@pytest.mark.parametrize("activation", ["r = Relu(q)", SILU])
@pytest.mark.parametrize("pool", ["GlobalAveragePool(a)", "ReduceMean<axes = [2, 3]>(a)"])
def test_a_squeeze_and_excite_branch_stays_float(pool, activation):
    body = SQUEEZE.replace("GlobalAveragePool(a)", pool).replace("r = Relu(q)", activation)
    proto = net(body, W1=SQUARE["W1"], W2=SQUARE["W2"], **NARROW)
    why = "it computes one position: nothing to gain"
    assert reasons(proto) == {"q": why, "s": why}
    assert readers(proto) == {"x": ("a",), "a": None, "m": ("y",), "y": None}
    assert reasons(proto, size_first=True) == {}


def test_what_a_branch_of_one_position_scales_is_not_of_one_position():
    proto = net(SQUEEZE.replace("Mul(a, g)", "Mul(g, a)"), W1=SQUARE["W1"], W2=SQUARE["W2"], **NARROW)
    assert set(reasons(proto)) == {"q", "s"}


BLOCK = """
  n = LayerNormalization(x, g, h)
  q0 = MatMul(n, Q) q = Add(q0, bq)
  k0 = MatMul(n, K) k = Add(k0, bk)
  v = MatMul(n, V)
  kt = Transpose<perm = [0, 2, 1]>(k)
  w = MatMul(q, kt)
  p = Softmax(w)
  c = MatMul(p, v)
  o = MatMul(c, O)
  s = Add(o, n)
  y = Exp(s)
"""


def block(opset=17, tail="y = Exp(s)"):
    weights = {name: weight(16, 16, seed=i) for i, name in enumerate("QKVO")}
    rows = {name: weight(16, seed=i) for i, name in enumerate(("bq", "bk", "h"))}
    body = BLOCK.replace("y = Exp(s)", tail)
    return net(body, "float[B, 5, 16] x", opset, g=np.ones(16, np.float32), **weights, **rows)


def test_attention_reads_one_stored_tensor_and_its_add_reads_the_float_one():
    assert readers(block()) == {"n": ("q0", "k0", "v"), "c": ("o",)}


def test_products_of_two_activations_store_both():
    assert readers(block(), products=True) == {
        "n": ("q0", "k0", "v"),
        "q": ("w",),
        "kt": ("w",),
        "p": ("c",),
        "v": ("c",),
        "c": ("o",),
    }
    assert limits(block(), products=True)["p"] == (0.0, 1.0)


def test_portable_stores_inputs_of_layers_alone():
    assert readers(block(), "portable") == {"n": ("q0", "k0", "v"), "c": ("o",)}


def test_products_of_half_precision_stay_float():
    body = "a = MatMul(x, W) t = Transpose<perm = [0, 2, 1]>(a) y = MatMul(a, t)"
    text = f"g (float16[B, 5, 16] x) => (float16[] y) {{ {body} }}"
    proto = model(text, 17, W=weight(16, 16, dtype=np.float16))
    assert readers(proto, products=True) == {}
    assert reasons(proto) == {"a": "no 8-bit kernel for float16 activations"}


def test_the_input_and_the_output_of_the_graph():
    proto = net(f"y = {CONV}(x, W1)", W1=SQUARE["W1"])
    assert readers(proto) == {"x": ("y",), "y": None}
    proto = net("y = MatMul(x, W)", "float[B, 8] x", W=weight(8, 4))
    assert readers(proto) == {"x": ("y",)}


def test_a_layer_inside_a_branch():
    text = """
    g (bool c, float[B, 16] x) => (float[B, 8] y) {
      y = If (c) <then_branch = t () => (float[B, 8] p) { p = MatMul(x, W) },
                  else_branch = e () => (float[B, 8] q) { q = MatMul(x, V) }>
    }"""
    proto = model(text, 17, W=weight(16, 8), V=weight(16, 8, seed=2))
    _, placement = placed(proto, "ort")
    assert placement.values == ()
    assert set(placement.reasons.values()) == {"inside a subgraph"}
    assert len(placement.reasons) == 2


def transposed(group=1):
    body = f"y = ConvTranspose<kernel_shape = [2, 2], strides = [2, 2], group = {group}>(x, T)"
    return net(body, T=weight(8, 4, 2, 2))


def test_transposed_convolutions_stay_float_unless_size_comes_first():
    assert reasons(transposed()) == {"y": "8-bit ConvTranspose is slower than float"}
    assert readers(transposed(), size_first=True) == {"x": ("y",)}


def test_a_transposed_convolution_with_groups_has_no_axis_of_channels():
    assert readers(transposed(2), size_first=True) == {}
    assert reasons(transposed(2), size_first=True)["y"]


@pytest.mark.parametrize("target", ["ort", "portable", "openvino", "web"])
def test_weights_no_8_bit_product_takes(target):
    proto = net("y = MatMul(W, x)", "float[8, 16] x", W=weight(4, 8))
    assert reasons(proto, target) == {"y": "the weight is the left operand"}
    proto = net("y = MatMul(x, W)", "float[3, 5, 8] x", W=weight(3, 8, 4))
    assert reasons(proto, target) == {"y": "the weight has a batch axis"}


def test_an_embedding_multiplies_nothing():
    text = "g (int64[S] x) => (float[] y) { e = Gather(T, x) y = MatMul(e, W) }"
    proto = model(text, 17, T=weight(40, 8), W=weight(8, 4))
    assert reasons(proto, quantize_embeddings=True) == {"e": "an embedding multiplies nothing"}
    assert readers(proto, quantize_embeddings=True) == {"e": ("y",)}


def test_activations_rounded_on_the_fly_are_stored_nowhere():
    model, placement = placed(block(), "ort", activations="dynamic")
    called = {node.name: node.outputs[0].name for node in model.graph.nodes}
    assert placement.values == ()
    assert {called[name] for name in placement.layers} == {"q0", "k0", "v", "o"}
    assert reasons(separable(), activations="dynamic")["d"] == "no kernel rounds the input of a Conv"


@pytest.mark.parametrize("target", ["ort", "openvino", "web", "portable"])
def test_nothing_is_stored_unless_asked_for(target):
    assert TARGETS[target].activations(Recipe(target=target, activations="none"), True) is None


@pytest.mark.parametrize(
    ("target", "how", "said"),
    [
        ("portable", {"matmulnbits": True}, "--matmulnbits: target portable does not read"),
        ("openvino", {"matmulnbits": True}, "--matmulnbits: target openvino does not read"),
        ("portable", {"activations": "dynamic"}, "--activations dynamic: target portable has no kernels"),
        ("openvino", {"activations": "dynamic"}, "--activations dynamic: target openvino has no kernels"),
    ],
)
def test_what_a_target_has_no_form_for_is_said_in_one_sentence(target, how, said):
    with pytest.raises(ComqError) as raised:
        TARGETS[target].activations(Recipe(target=target, **how), True)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
    assert raised.value.fix
