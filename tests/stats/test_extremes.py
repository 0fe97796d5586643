"""The largest value of each tensor, against a run that hands out all tensors."""

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx.reference import ReferenceEvaluator

from comq_onnx.errors import ComqError
from comq_onnx.stats.extremes import extremes

TEXT = """g (float[B, 16] x, int64[B, 1] i) => (float[B, 8] y) {
  c = Cast<to = 1>(i)
  a = MatMul(x, W)
  s = Add(a, c)
  w = Neg(W)
  l, r = Split<axis = 1>(s)
  e = Exp(l)
  y = Concat<axis = 1>(e, r)
}"""


def batches(count=3):
    rng = np.random.default_rng(3)
    return [
        {"x": rng.standard_normal((n + 1, 16)).astype(np.float32), "i": np.full((n + 1, 1), 40 * n - 50)}
        for n in range(count)
    ]


@pytest.mark.parametrize("opset", [13, 17])
def test_extremes_are_those_of_all_samples(opset):
    proto = model(TEXT, opset, 8, W=weight(16, 8))
    names = ["c", "a", "s", "w", "l", "r", "e", "y"]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    del tapped.graph.output[:]
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runs = [ReferenceEvaluator(tapped).run(None, batch) for batch in batches()]
    wanted = {name: max(np.abs(run[k]).max() for run in runs) for k, name in enumerate(names)}
    wanted["x"] = max(np.abs(batch["x"]).max() for batch in batches())
    found = extremes(proto, batches())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-4)


def test_infinity_is_told():
    proto = model("g (float[B, 4] x) => (float[B, 4] y) { y = Exp(x) }")
    found = extremes(proto, [{"x": np.full((1, 4), 100, np.float32)}, {"x": np.zeros((1, 4), np.float32)}])
    assert found == {"x": 100.0, "y": np.inf}


def test_a_graph_without_floats_has_none_and_a_bad_one_one_sentence():
    assert extremes(model("g (int64[B] x) => (int64[B] y) { y = Add(x, x) }"), []) == {}
    with pytest.raises(ComqError):
        extremes(
            model(TEXT, W=weight(16, 8)), [{"x": np.zeros((1, 3), np.float32), "i": np.zeros((1, 1), int)}]
        )
