"""Identity, Add and Pad that stand between operators go, and nothing that is computed changes."""

import numpy as np
import onnx
import pytest
from graph.preparing import model, ops, rand

from comq_onnx.graph.absorb import constant_value, drop_identities, fold_addends, fold_pads
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare

IMAGE = {"x": rand(2, 4, 7, 6)}
HEAD = "float[B, 4, H, W] x"


@pytest.fixture
def absorbed(run):
    """Prepare a model with all three passes: the graph, once its outputs are those of the original."""

    def absorbed(proto, feeds, exact=False):
        known = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph.output
        for output, shaped in zip(proto.graph.output, known, strict=True):
            output.CopyFrom(shaped)
        ready = prepare(load(proto), 0, absorb=True)
        result = to_proto(ready)
        onnx.checker.check_model(result, full_check=True)
        assert [o.name for o in result.graph.output] == [o.name for o in proto.graph.output]
        for before, after in zip(run(proto, feeds), run(result, feeds), strict=True):
            if exact:
                np.testing.assert_array_equal(after, before)
            else:
                np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
        return ready

    return absorbed


def test_an_identity_between_operators_goes(absorbed):
    proto = model("a = Relu(x) i = Identity(a) j = Identity(i) y = Exp(j)", HEAD, "float[] y")
    assert ops(absorbed(proto, IMAGE, True)) == ["Relu", "Exp"]


def test_an_identity_of_the_input_goes(absorbed):
    proto = model("i = Identity(x) y = Exp(i) z = Neg(i)", HEAD, "float[] y, float[] z")
    assert ops(absorbed(proto, IMAGE, True)) == ["Exp", "Neg"]


def test_an_identity_that_makes_an_output_stays(absorbed):
    proto = model("a = Relu(x) y = Identity(a) z = Exp(y)", HEAD, "float[] y, float[] z")
    assert ops(absorbed(proto, IMAGE, True)) == ["Relu", "Identity", "Exp"]


def test_an_identity_of_an_output_goes(absorbed):
    proto = model("y = Relu(x) i = Identity(y) z = Exp(i)", HEAD, "float[] y, float[] z")
    assert ops(absorbed(proto, IMAGE, True)) == ["Relu", "Exp"]


def test_an_identity_of_a_constant_is_left_to_others():
    ready = load(model("i = Identity(w) y = Add(x, i)", HEAD, "float[] y", w=rand(1)))
    drop_identities(ready)
    assert ops(ready) == ["Identity", "Add"]


BRANCH = """
  m = ReduceMax<keepdims = 0>(x)
  t = Cast<to = 9>(m)
  {made}
  y = If (t) <
    then_branch = g () => (float[N, M, O, P] p) {{ {then} }},
    else_branch = h () => (float[N, M, O, P] q) {{ {other} }}
  >
"""


def branch(made, then, other="q = Neg(x)", **weights):
    return model(BRANCH.format(made=made, then=then, other=other), HEAD, "float[] y", **weights)


def test_an_identity_read_inside_a_branch_goes(absorbed):
    proto = branch("i = Identity(x)", "p = Exp(i)")
    assert "Identity" not in ops(absorbed(proto, IMAGE, True))


def test_an_identity_inside_a_branch_stays(absorbed):
    proto = branch("i = Relu(x)", "p = Identity(i)")
    assert "Identity" in ops(absorbed(proto, IMAGE, True))


CONV = "Conv<kernel_shape = [3, 3]>"


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (5, 1, 1), (1,), (1, 1, 1, 1), ()], ids=str)
def test_an_addend_for_each_channel_becomes_the_bias(absorbed, shape, bias, swapped):
    body = f"c = {CONV}(x, k{', b' if bias else ''}) y = Add({'a, c' if swapped else 'c, a'})"
    proto = model(body, HEAD, "float[] y", k=rand(5, 4, 3, 3), b=rand(5), a=np.float32(rand(*shape)))
    ready = absorbed(proto, IMAGE)
    assert ops(ready) == ["Conv"]
    assert len(ready.graph.nodes[0].inputs) == 3


@pytest.mark.parametrize("group", [1, 2])
def test_an_addend_behind_a_transposed_convolution(absorbed, group):
    body = f"c = ConvTranspose<kernel_shape = [2, 2], group = {group}>(x, k) y = Add(c, a)"
    proto = model(body, HEAD, "float[] y", k=rand(4, 3, 2, 2), a=rand(3 * group, 1, 1))
    assert ops(absorbed(proto, IMAGE)) == ["ConvTranspose"]


def test_only_the_first_of_two_addends_is_needed_for_one_bias(absorbed):
    proto = model(
        f"c = {CONV}(x, k) d = Add(c, a) e = Relu(d) f = Add(e, a) y = Exp(f)",
        HEAD,
        "float[] y",
        k=rand(5, 4, 3, 3),
        a=rand(5, 1, 1),
    )
    assert ops(absorbed(proto, IMAGE)) == ["Conv", "Relu", "Add", "Exp"]


def test_a_bias_that_others_read_is_not_changed(absorbed):
    body = f"c = {CONV}(x, k, b) d = Add(c, a) e = {CONV}(x, k, b) y = Concat<axis = 0>(d, e)"
    proto = model(body, HEAD, "float[] y", k=rand(5, 4, 3, 3), b=rand(5), a=rand(5, 1, 1))
    assert sorted(ops(absorbed(proto, IMAGE))) == ["Concat", "Conv", "Conv"]


def test_an_empty_bias_is_filled(absorbed):
    proto = model(f"c = {CONV}(x, k, ) y = Add(c, a)", HEAD, "float[] y", k=rand(5, 4, 3, 3), a=rand(5, 1, 1))
    proto.graph.node[0].input[:] = ["x", "k", ""]
    assert ops(absorbed(proto, IMAGE)) == ["Conv"]


@pytest.mark.parametrize("shape", [(5, 5, 4), (4,), (5, 1), (2, 5, 1, 1), (1, 1, 5, 1, 1)], ids=str)
def test_other_addends_are_left_alone(absorbed, shape):
    proto = model(f"c = {CONV}(x, k) y = Add(c, a)", HEAD, "float[] y", k=rand(5, 4, 3, 3), a=rand(*shape))
    assert ops(absorbed(proto, IMAGE, True)) == ["Conv", "Add"]


def test_a_bias_that_spreads_one_channel_to_many_is_left_alone(absorbed):
    proto = model(f"c = {CONV}(x, k) y = Add(c, a)", HEAD, "float[] y", k=rand(1, 4, 3, 3), a=rand(5, 1, 1))
    assert ops(absorbed(proto, IMAGE, True)) == ["Conv", "Add"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"y = {CONV}(x, k) z = Add(y, a)", "float[] y, float[] z"),
        (f"c = {CONV}(x, k) y = Add(c, a) z = Exp(c)", "float[] y, float[] z"),
        (f"c = {CONV}(x, k) y = Add(c, c)", "float[] y"),
        (f"c = {CONV}(x, k) d = {CONV}(x, k) y = Add(c, d)", "float[] y"),
        (f"c = {CONV}(x, k) y = Sub(c, a)", "float[] y"),
        (f"m = ReduceMax<keepdims = 0>(x) c = {CONV}(x, k) y = Add(c, m)", "float[] y"),
    ],
)
def test_an_output_that_others_need_is_left_alone(absorbed, body, outputs):
    proto = model(body, HEAD, outputs, k=rand(5, 4, 3, 3), a=rand(5, 1, 1))
    assert len(ops(absorbed(proto, IMAGE, True))) == len(proto.graph.node)


def test_a_computed_bias_is_left_alone(absorbed):
    body = f"m = ReduceMax<axes = [0, 2, 3], keepdims = 0>(x) c = {CONV}(x, k, m) y = Add(c, a)"
    proto = model(body, HEAD, "float[] y", k=rand(4, 4, 3, 3), a=rand(4, 1, 1))
    assert ops(absorbed(proto, IMAGE, True)) == ["ReduceMax", "Conv", "Add"]


def test_an_add_inside_a_branch_is_left_alone(absorbed):
    proto = branch(f"c = {CONV}(x, k)", "p = Add(c, a)", k=rand(5, 4, 3, 3), a=rand(5, 1, 1))
    assert "Add" in ops(absorbed(proto, IMAGE, True))


def test_the_sum_is_rounded_once():
    held, added = np.float32(1.0), np.float32(2.0**-24 + 2.0**-40)
    body = f"c = {CONV}(x, k, b) y = Add(c, a)"
    weights = {"k": rand(1, 4, 3, 3), "b": np.array([held]), "a": np.array([[[added]]])}
    ready = load(model(body, HEAD, "float[] y", **weights))
    fold_addends(ready)
    bias = to_proto(ready).graph.initializer
    found = {t.name: onnx.numpy_helper.to_array(t) for t in bias}["k_bias"]
    assert found.dtype == np.float32
    assert found[0] == np.float32(float(held) + float(added))


PADDED = f"p = Pad(x, pads) y = {CONV}(p, k)"


def padded(*pads, body=PADDED, **weights):
    pads = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
    return model(body, HEAD, "float[] y", k=rand(5, 4, 3, 3), pads=pads, **weights)


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 2, 3, 1), (0, 0, 0, 0)], ids=str)
@pytest.mark.parametrize(
    "own", ["", ", pads = [1, 0, 2, 1]", ', auto_pad = "VALID"', ', auto_pad = "NOTSET"']
)
def test_a_pad_with_zeros_becomes_the_convolution_s(absorbed, pads, own):
    body = PADDED.replace("[3, 3]", f"[3, 3]{own}")
    assert ops(absorbed(padded(*pads, body=body), IMAGE)) == ["Conv"]


def test_all_readers_take_the_pads(absorbed):
    body = f"p = Pad(x, pads) a = {CONV}(p, k) b = {CONV[:-1]}, strides = [2, 1], pads = [1, 0, 0, 0]>(p, k)"
    body += " y = Exp(a) z = Exp(b)"
    proto = padded(1, 0, 2, 1, body=body)
    proto.graph.output.add().name = "z"
    proto.graph.output[1].type.CopyFrom(proto.graph.output[0].type)
    assert sorted(ops(absorbed(proto, IMAGE))) == ["Conv", "Conv", "Exp", "Exp"]


@pytest.mark.parametrize("value", [np.float32(0), np.zeros((), np.float32)])
def test_a_value_of_zero_that_is_written_down(absorbed, value):
    body = PADDED.replace("(x, pads)", "(x, pads, v)")
    assert ops(absorbed(padded(1, 1, 0, 0, body=body, v=value), IMAGE)) == ["Conv"]


@pytest.mark.parametrize(
    ("body", "pads"),
    [
        (PADDED.replace("(x, pads)", "(x, pads, v)"), (1, 1, 1, 1)),
        (PADDED, (-1, 1, 1, 1)),
        (PADDED.replace("Pad(", 'Pad<mode = "reflect">('), (1, 1, 1, 1)),
        (PADDED.replace("Pad(", 'Pad<mode = "edge">('), (1, 1, 1, 1)),
        (PADDED.replace("[3, 3]", '[3, 3], auto_pad = "SAME_UPPER"'), (1, 1, 1, 1)),
        (f"p = Pad(x, pads) c = {CONV}(p, k) m = ReduceMax<keepdims = 0>(p) y = Mul(c, m)", (1, 1, 1, 1)),
        (f"q = Cast<to = 7>(n) p = Pad(x, q) y = {CONV}(p, k)", (1, 1, 1, 1)),
    ],
    ids=["value", "negative", "reflect", "edge", "same", "another reader", "computed of an input"],
)
def test_other_pads_are_left_alone(absorbed, body, pads):
    proto = padded(*pads, body=body, v=np.float32(0.5))
    feeds = dict(IMAGE)
    if "(n)" in body:
        proto.graph.input.append(onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT32, [8]))
        feeds["n"] = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int32)
    assert "Pad" in ops(absorbed(proto, feeds, True))


def test_pads_of_channels_are_left_alone(absorbed):
    pads = np.array([0, 1, 1, 1, 0, 0, 1, 1], np.int64)
    proto = model(PADDED, HEAD, "float[] y", k=rand(5, 5, 3, 3), pads=pads)
    assert ops(absorbed(proto, IMAGE, True)) == ["Pad", "Conv"]


def test_a_pad_along_named_axes_is_left_alone(absorbed):
    body = f"p = Pad(x, pads, , axes) y = {CONV}(p, k)"
    proto = model(body, HEAD, "float[] y", 18, k=rand(5, 4, 3, 3), pads=np.array([1, 1]), axes=np.array([2]))
    proto.graph.node[0].input[:] = ["x", "pads", "", "axes"]
    assert ops(absorbed(proto, IMAGE, True)) == ["Pad", "Conv"]


def test_a_pad_that_is_an_output_stays(absorbed):
    proto = padded(1, 1, 1, 1, body=f"y = Pad(x, pads) z = {CONV}(y, k)")
    proto.graph.output.add().CopyFrom(proto.graph.output[0])
    proto.graph.output[1].name = "z"
    assert ops(absorbed(proto, IMAGE, True)) == ["Pad", "Conv"]


def test_the_readers_of_one_pad_all_take_it_or_none(absorbed):
    body = f"p = Pad(x, pads) c = {CONV}(p, k) d = Conv(p, k) y = Add(c, d)"
    assert "Pad" in ops(absorbed(padded(1, 1, 1, 1, body=body), IMAGE, True))


def test_a_pad_read_inside_a_branch(absorbed):
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 0], np.int64)
    proto = branch("d = Pad(x, pads)", f"p = {CONV}(d, k)", k=rand(5, 4, 3, 3), pads=pads)
    assert "Pad" not in ops(absorbed(proto, IMAGE))


COMPUTED = f"""
  half = Slice(sizes, zero, four)
  twice = Concat<axis = 0>(half, half)
  pads = Cast<to = 7>(twice)
  p = Pad(x, pads) y = {CONV}(p, k)
"""


def test_computed_pads_are_computed_and_what_computed_them_goes(absorbed):
    weights = {"zero": np.array([0]), "four": np.array([4]), "sizes": np.array([0, 0, 1, 2, 9], np.int32)}
    proto = model(COMPUTED, HEAD, "float[] y", k=rand(5, 4, 3, 3), **weights)
    ready = load(proto)
    fold_pads(ready)
    assert ops(ready) == ["Conv"]
    assert ready.graph.nodes[0].attrs["pads"] == [1, 2, 1, 2]
    assert ops(absorbed(proto, IMAGE)) == ["Conv"]


def test_the_value_of_a_tensor_that_depends_on_constants_alone():
    body = """
      a = Add(one, one) b = Mul(a, a) c = Concat<axis = 0>(b, a, one)
      s = Shape(x) t = Add(s, one) r = RandomUniform<shape = [1]>() u = Add(f, r) y = Relu(x)
    """
    ready = load(model(body, HEAD, "float[] y", one=np.array([3]), f=rand(1)))
    tensors = {t.name: t for node in ready.graph.nodes for t in node.outputs}
    np.testing.assert_array_equal(constant_value(tensors["c"], 17), [36, 6, 3])
    assert constant_value(tensors["t"], 17) is None
    assert constant_value(tensors["u"], 17) is None
    assert constant_value(ready.graph.inputs[0], 17) is None
    assert len(ready.graph.nodes) == 8


def test_what_only_another_runtime_can_compute_is_not_constant():
    proto = model("a = Relu(one) y = Add(x, a)", HEAD, "float[] y", one=rand(1))
    proto.graph.node[0].domain = "some.where"
    proto.opset_import.add(domain="some.where", version=1)
    ready = load(proto)
    assert constant_value(ready.graph.nodes[0].outputs[0], 17) is None


def test_a_weight_of_one_axis_is_left_to_the_runtime():
    body = "c = Conv(x, w) y = Add(c, k)"
    loaded = load(model(body, HEAD, "float[B, C, H, W] y", w=rand(4), k=rand(1, 4, 1, 1)))
    fold_addends(loaded)
    assert [node.op for node in loaded.graph.nodes] == ["Conv", "Add"]
