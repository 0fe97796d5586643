"""Shapes told without running a graph agree with those that it makes when it is run."""

import numpy as np
import onnx
import onnxruntime
from graphs import model, weight

from comq_onnx.graph.shapes import known_shapes

EXPORTED = """g (float[B,S,8] x) => (float[B,S,12] y) {
  h = MatMul(x, w)
  shape = Shape(h)
  b = Gather<axis=0>(shape, zero)
  s = Gather<axis=0>(shape, one)
  b1 = Unsqueeze(b, axes)
  s1 = Unsqueeze(s, axes)
  wanted = Concat<axis=0>(b1, s1, heads)
  split = Reshape(h, wanted)
  turned = Transpose<perm=[0,2,1,3]>(split)
  back = Transpose<perm=[0,2,1,3]>(turned)
  twelve = Constant<value_ints=[12]>()
  flat = Concat<axis=0>(b1, s1, twelve)
  y = Reshape(back, flat)
}"""


def exported() -> onnx.ModelProto:
    weights = {
        "w": weight(8, 12),
        "zero": np.array(0),
        "one": np.array(1),
        "axes": np.array([0]),
        "heads": np.array([3, 4]),
    }
    return model(EXPORTED, **weights)


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of a graph, by plain onnxruntime."""
    every = onnx.ModelProto()
    every.CopyFrom(proto)
    names = [name for node in proto.graph.node for name in node.output if name]
    del every.graph.output[:]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(every.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_shapes_that_are_computed_are_followed() -> None:
    proto, x = exported(), np.ones((2, 5, 8), np.float32)
    before = proto.SerializeToString()
    found = known_shapes(proto, {"x": x.shape})
    for name, value in run(proto, {"x": x}).items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype == value.dtype
        assert found[name].bytes == value.nbytes
    assert found["w"].shape == (8, 12)
    assert proto.SerializeToString() == before


def test_pads_and_strides_of_convolutions_are_followed() -> None:
    text = """g (float[N,3,H,W] x) => (float[N,4,P,Q] y) {
      padded = Pad(x, pads)
      h = Conv<strides=[2,2]>(padded, k)
      y = Relu(h)
    }"""
    proto = model(text, k=weight(4, 3, 3, 3), pads=np.array([0, 0, 0, 1, 0, 0, 1, 2]))
    x = np.ones((1, 3, 9, 12), np.float32)
    found = known_shapes(proto, {"x": x.shape})
    assert {name: found[name].shape for name in ("padded", "h", "y")} == {
        name: value.shape for name, value in run(proto, {"x": x}).items()
    }


def test_what_depends_on_values_is_absent() -> None:
    text = """g (float[N,4] x) => (int64[2,M] y) {
      r = Relu(x)
      y = NonZero(r)
    }"""
    found = known_shapes(model(text), {"x": (3, 4)})
    assert found["r"].shape == (3, 4)
    assert "y" not in found


def test_operators_that_onnx_does_not_know_hide_what_follows() -> None:
    proto = model("g (float[N,4] x) => (float[N,4] y) { h = Relu(x) z = Relu(h) y = Neg(z) }")
    proto.opset_import.add(domain="com.microsoft", version=1)
    proto.graph.node[1].domain, proto.graph.node[1].op_type = "com.microsoft", "QuickGelu"
    found = known_shapes(proto, {"x": (3, 4)})
    assert "z" not in found
    assert "y" not in found
    assert found["h"].shape == (3, 4)


def test_inputs_without_a_shape_hide_what_follows() -> None:
    assert "h" not in known_shapes(exported(), {})
