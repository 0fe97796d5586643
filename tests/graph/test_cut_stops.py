"""Segments that end at tensors asked for: nothing that reads one runs before."""

from graphs import model, weight

from comq_onnx.graph.cut import cut, reads_of
from comq_onnx.planning import plan
from comq_onnx.recipe import Recipe

NET = """g (float[B,4,8] x) => (float[B,4,8] y) {
  a = MatMul(x, w1)
  b = MatMul(a, w2)
  r = Add(a, b)
  u = Relu(r)
  c = MatMul(u, w3)
  s = Add(r, c)
  y = Exp(s)
}"""


def test_segments_end_at_stops_and_run_each_node_once() -> None:
    made = model(NET, w1=weight(8, 8), w2=weight(8, 8, seed=1), w3=weight(8, 8, seed=2))
    plan_ = plan(made, Recipe(weights="int8"))
    segments = cut(plan_.prepared.graph, plan_.layers, ("r", "s"))
    assert [segment.stops for segment in segments if segment.stops] == [("r",), ("s",)]
    seen: set[str] = set()
    for segment in segments:
        made_here = [name for node in segment.nodes for name in node.output]
        assert seen.isdisjoint(made_here)
        seen.update(made_here)
        for stop in segment.stops:
            assert stop in segment.keeps
            assert all(stop not in reads_of(node) for node in segment.nodes)
    solved = [layer.input for segment in segments for layer in segment.layers]
    assert solved == ["x", "a", "u"]
    assert seen == {"a", "b", "r", "u", "c", "s"}
    # Every tensor that is kept, and the input, is given back once.
    kept = [name for segment in segments for name in segment.keeps]
    freed = [name for segment in segments for name in (*segment.frees, *segment.last_reads)]
    assert sorted(freed) == sorted([*kept, "x"])


def test_a_stop_beside_residuals() -> None:
    """A residual that is a stop is there when its layer is solved; none behind a stop is run for."""
    net = """g (float[B,4,8] x) => (float[B,4,8] y, float[B,4,8] q) {
      a = MatMul(x, w1)
      c = MatMul(a, w2)
      b = Exp(a)
      r = Add(a, b)
      e = Relu(r)
      y = Add(c, e)
      q = MatMul(e, w3)
    }"""
    made = model(net, w1=weight(8, 8), w2=weight(8, 8, seed=1), w3=weight(8, 8, seed=2))
    plan_ = plan(made, Recipe(weights="int8"))
    for stops in ((), ("r",), ("r", "y")):
        segments = cut(plan_.prepared.graph, plan_.layers, stops)
        beside = {name: tensor for segment in segments for name, tensor in segment.residuals.items()}
        # The residual lies behind the stop: it is not run ahead of the stop's being seen.
        assert list(beside.values()) == ([] if stops else ["e"])
        assert [stop for segment in segments for stop in segment.stops] == list(stops)
        for segment in segments:
            assert all(stop not in reads_of(node) for stop in segment.stops for node in segment.nodes)
    direct = net.replace("Add(c, e)", "Add(c, r)")
    made = model(direct, w1=weight(8, 8), w2=weight(8, 8, seed=1), w3=weight(8, 8, seed=2))
    plan_ = plan(made, Recipe(weights="int8"))
    segments = cut(plan_.prepared.graph, plan_.layers, ("r", "y"))
    (both,) = [segment for segment in segments if segment.residuals]
    assert both.stops == ("r",)
    assert list(both.residuals.values()) == ["r"]
