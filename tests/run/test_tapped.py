"""Taps: other outputs, fewer nodes, the same numbers."""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from comq_onnx.run.session import open_session
from comq_onnx.run.tapped import SHAPE_PREFIX, TappedModel, needed_nodes

MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[N, 3] x, bool flag) => (float[N, 3] y) <float[3] unused = {1, 2, 3}>
{
  a = Relu(x)
  b = Exp(a)
  outer = Neg(b)
  c = If (flag) <
    then_branch = t () => (float[N, 3] o) { o = Identity(outer) },
    else_branch = e () => (float[N, 3] o) { o = Abs(b) }
  >
  y = Add(c, b)
}"""


def test_only_what_is_needed_is_kept_and_computed():
    model = onnx.parser.parse_model(MODEL)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    tapped = TappedModel(onnx.parser.parse_model(MODEL))
    assert tapped.inputs == ("x", "flag")
    for names, ops in (
        (["a"], ["Relu"]),
        (["b", "a"], ["Relu", "Exp"]),
        (["c"], ["Relu", "Exp", "Neg", "If"]),
    ):
        cut = tapped.with_outputs(names)
        assert [node.op_type for node in cut.graph.node] == ops
        got = open_session(cut).run({"x": x, "flag": np.array(True)})
        for name in names:
            whole = onnx.parser.parse_model(MODEL)
            whole.graph.output.extend([onnx.ValueInfoProto(name=name)])
            want = ReferenceEvaluator(whole).run([name], {"x": x, "flag": np.array(True)})[0]
            assert np.allclose(got[name], want)
    assert len(needed_nodes(model.graph.node, ["y"])) == 5


def test_shapes_are_fetched_without_the_tensors():
    session = open_session(TappedModel(onnx.parser.parse_model(MODEL)).with_shapes(["a", "c"]))
    got = session.run({"x": np.ones((5, 3), np.float32), "flag": np.array(False)})
    assert {name: value.tolist() for name, value in got.items()} == {
        SHAPE_PREFIX + "a": [5, 3],
        SHAPE_PREFIX + "c": [5, 3],
    }
