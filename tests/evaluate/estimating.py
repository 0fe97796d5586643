"""Plans and data of small graphs, for tests of what is told before a run."""

from typing import Any

import numpy as np
import onnx
from graphs import model, weight

from comq_onnx.planning import Opened, open_run
from comq_onnx.recipe import Recipe

RESIDUAL = """g (float[B,S,16] x) => (float[B,S,16] y) {
  shifted = Add(x, b0)
  q = MatMul(shifted, wq)
  k = MatMul(shifted, wk)
  s = Mul(q, k)
  r = Relu(s)
  o = MatMul(r, wo)
  res = Add(o, shifted)
  f = MatMul(res, wf)
  y = Add(f, x)
}"""

CONVOLUTIONS = """g (float[B,3,H,W] x) => (float[B,10] y) {
  h = Conv<pads=[1,1,1,1], strides=[2,2]>(x, k1)
  r = Relu(h)
  d = Conv<pads=[1,1,1,1], group=8>(r, k2)
  a = Add(d, r)
  p = Conv(a, k3)
  m = GlobalAveragePool(p)
  flat = Flatten(m)
  y = Gemm<transB=1>(flat, w, b)
}"""


def residual() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Layers that share inputs, nodes that no layer has touched, branches that live long; and samples."""
    weights = {name: weight(16, 16, seed=i) for i, name in enumerate(("wq", "wk", "wo", "wf"))}
    made = model(RESIDUAL, b0=weight(16), **weights)
    name_nodes(made)
    return made, {"x": weight(12, 5, 16, seed=7) * 8}


def convolutions() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A plain, a depthwise and a 1x1 convolution and a Gemm; and samples."""
    weights = {"k1": weight(8, 3, 3, 3), "k2": weight(8, 1, 3, 3), "k3": weight(24, 8, 1, 1)}
    made = model(CONVOLUTIONS, w=weight(10, 24), b=weight(10), **weights)
    name_nodes(made)
    return made, {"x": weight(6, 3, 20, 24, seed=5) * 8}


def name_nodes(made: onnx.ModelProto) -> None:
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"


def opened(made: onnx.ModelProto, data: Any, **options: Any) -> tuple[Opened, Recipe]:
    recipe = Recipe(effort="fast", **options)
    return open_run(made, data, recipe), recipe
