"""Which Adds are residual, and where their channels are."""

import onnx
from graphs import model, weight

from comq_onnx.graph.residual import residual_adds
from comq_onnx.planning import plan
from comq_onnx.recipe import Recipe


def found(made: onnx.ModelProto) -> tuple[list[tuple[str, int]], list[str]]:
    for node in made.graph.node:
        node.name = node.output[0]
    plan_ = plan(made, Recipe(weights="int8"))
    blocks, unknown = residual_adds(plan_.prepared.graph, plan_.layers)
    return [(block.node, block.axis) for block in blocks], unknown


def test_both_inputs_come_from_quantized_layers() -> None:
    made = model(
        """g (float[B,4,8] x, float[B,4,4] mask) => (float[B,4,8] r2) {
          a = MatMul(x, w1)
          b = Add(a, bias)
          keys = Transpose<perm=[0,2,1]>(b)
          scores = MatMul(b, keys)
          masked = Add(scores, mask)
          p = Softmax(masked)
          v = MatMul(p, b)
          h = MatMul(v, w2)
          r = Add(b, h)
          u = Relu(r)
          k = MatMul(u, w3)
          r2 = Add(k, r)
        }""",
        w1=weight(8, 8),
        w2=weight(8, 8, seed=1),
        w3=weight(8, 8, seed=2),
        bias=weight(8),
    )
    assert found(made) == ([("r", -1), ("r2", -1)], [])


def test_channels_of_a_convolution_and_an_axis_that_is_not_known() -> None:
    made = model(
        """g (float[B,4,6,6] x) => (float[B,6,6,4] s) {
          a = Conv<kernel_shape=[1,1]>(x, w1)
          h = Conv<kernel_shape=[1,1]>(a, w2)
          g = Sigmoid(h)
          r = Add(a, g)
          t = Transpose<perm=[0,2,3,1]>(r)
          s = Add(t, t)
        }""",
        w1=weight(4, 4, 1, 1),
        w2=weight(4, 4, 1, 1, seed=1),
    )
    assert found(made) == ([("r", 1)], ["s"])
