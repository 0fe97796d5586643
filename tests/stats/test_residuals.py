"""The drift of what a layer's output is added to, against both networks computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from graphs import model, weight

from comq_onnx.backends.engine import cpu_engine
from comq_onnx.graph.cut import added_to, cut
from comq_onnx.graph.io import load
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.grid import Grid, dequantize
from comq_onnx.planning import Opened, open_run
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Problem, Solution
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.stream import Stream
from comq_onnx.solve.layer import solve_layer
from comq_onnx.stats.pairs import collect_pairs
from comq_onnx.stats.taps import Sampling

W = {name: weight(8, 8, seed=i) for i, name in enumerate("ABC")}
RECIPE = Recipe(weights="int3", block_size="channel")
DENSE = """g (float[N,5,8] x) => (float[N,5,8] y) {
  h = MatMul(x, A) r = Relu(h) a = MatMul(r, B) c = Add(a, bias) s = Add(r, c) y = MatMul(s, C) }"""
CONV = """g (float[N,8,6,6] x) => (float[N,8,6,6] y) {
  h = Conv(x, A) r = Relu(h) a = Conv(r, B) s = Add(a, r) y = Conv(s, C) }"""


def opened(kind: str) -> Opened:
    if kind == "dense":
        made = model(DENSE, **W, bias=weight(8, seed=9))
        return open_run(made, {"x": weight(60, 40, seed=5).reshape(60, 5, 8)}, RECIPE)
    made = model(CONV, **{name: values.reshape(8, 8, 1, 1) for name, values in W.items()})
    return open_run(made, {"x": weight(60, 288, seed=5).reshape(60, 8, 6, 6)}, RECIPE)


def rows_of(values: np.ndarray) -> np.ndarray:
    """``(n, 8)``: tokens of a sequence, or positions of an image."""
    return values.reshape(-1, 8) if values.ndim == 3 else values.transpose(0, 2, 3, 1).reshape(-1, 8)


def second_layer(run: Opened) -> tuple[InputStats, Solution, np.ndarray]:
    """Statistics of the layer whose output is added to ``r``; the first layer's solution; x as rows."""
    plan, ready = run.plan, load(run.plan.prepared)
    first, second, _ = plan.layers
    stream = Stream(plan.prepared, plan.layers, run.calibration, SessionOptions(), 1 << 30)
    sampling, how = Sampling(0, run.calibration.samples), (cpu_engine(1), 1 << 30)
    for segment in stream.segments:
        stream.run(segment)
        stats = collect_pairs(stream, segment, sampling, [], how)
        if first in segment.layers:
            grid, rows = plan.grids[first.name], to_rows(weight_values(ready, first), first.layout)
            solution = solve_layer(Problem(rows, stats[first.name], grid), "rtn", compensate=False)
            stream.quantize(first.name, solution)
        if second in segment.layers:
            found = stats[second.name]
            assert found is not None
            x = np.concatenate([batch["x"] for batch in run.calibration.batches()])
            return found, solution, rows_of(x)
    raise AssertionError("the second layer is in no segment")


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_moments_are_those_of_both_networks(kind: str) -> None:
    stats, solution, x = second_layer(opened(kind))
    assert stats.drift is not None
    assert stats.drift.residual_mean is not None
    assert stats.drift.residual_cross is not None
    a = W["A"] if kind == "dense" else W["A"].T
    quantized = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)[0]
    r, seen = (np.maximum(x.astype(np.float64) @ w, 0) for w in (a, quantized))
    assert stats.count == len(r)
    np.testing.assert_allclose(stats.drift.residual_mean[0], (r - seen).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(stats.drift.residual_cross[0], (r - seen).T @ seen / len(r), atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_the_sum_comes_nearer_to_the_float_one(kind: str) -> None:
    """Aiming at the sum lowers the sum's error against a target that leaves the residual out."""
    run = opened(kind)
    stats, solution, x = second_layer(run)
    assert stats.drift is not None
    weights = W["B"] if kind == "dense" else W["B"].T
    first = W["A"] if kind == "dense" else W["A"].T
    quantized = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)[0]
    r, seen = (np.maximum(x.astype(np.float64) @ w, 0) for w in (first, quantized))
    wanted = r + r @ weights
    errors = []
    alone = replace(stats.drift, residual_mean=None, residual_cross=None)
    for drift in (stats.drift, alone):
        known = InputStats(stats.mean, stats.gram, stats.count, None, drift)
        made = solve_layer(Problem(weights[None], known, Grid(3)), "comq", compensate=True)
        assert made.bias is not None
        got = seen + seen @ dequantize(made.codes, made.scale, made.zero_point, made.grid)[0] + made.bias[0]
        errors.append(float(((wanted - got) ** 2).sum()))
    assert errors[0] < errors[1]


def test_what_an_output_is_added_to() -> None:
    """Constants are passed; a tensor that others read, an output of the graph and a branch are not."""
    text = """g (float[N,8] x) => (float[N,8] y, float[N,8] k) {
        h = MatMul(x, A) r = Relu(h) a = MatMul(r, B) b = Add(a, bias) s = Add(r, b)
        k = MatMul(s, B) t = Add(k, s) u = MatMul(t, C) v = Relu(u) w = Add(u, t) y = Add(v, w) }"""
    run = open_run(model(text, **W, bias=weight(8, seed=9)), {"x": weight(4, 8, seed=5)}, RECIPE)
    found = added_to(run.plan.prepared.graph, run.plan.layers)
    outputs = {node.name: node.output[0] for node in run.plan.prepared.graph.node}
    assert {outputs[name]: tensor for name, tensor in found.items()} == {"a": "r"}
    segments = cut(run.plan.prepared.graph, run.plan.layers)
    assert [dict(s.residuals) for s in segments if s.residuals] == [found]
