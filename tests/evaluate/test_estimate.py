"""What is told before a run is what the run turns out to hold, execute and sum."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from evaluate.estimating import convolutions, name_nodes, opened, residual
from graphs import model, weight

from comq_onnx.evaluate.estimate import Estimate, estimate
from comq_onnx.evaluate.job import middle_batch
from comq_onnx.evaluate.speed import Speed, measured_speed
from comq_onnx.graph.cut import cut
from comq_onnx.graph.io import load
from comq_onnx.planning import Opened
from comq_onnx.recipe import Recipe
from comq_onnx.run import stream as stream_module
from comq_onnx.run.stream import Stream
from comq_onnx.sequential import march
from comq_onnx.stats.collect import collect

GIB = 1 << 30


def told(run: Opened, recipe: Recipe, inputs: str) -> Estimate:
    plan = run.plan
    return estimate(plan.prepared, plan.layers, plan.grids, run.calibration, recipe, inputs)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The streams that runs open."""
    made: list[Stream] = []

    def remembered(*words: object) -> Stream:
        made.append(stream_module.Stream(*words))
        return made[-1]

    monkeypatch.setattr("comq_onnx.sequential.Stream", remembered)
    return made


@pytest.mark.parametrize("made", [residual, convolutions])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_live_activations_and_node_runs_are_those_of_the_stream(made, batch_size: int, streams) -> None:
    run, recipe = opened(*made(), batch_size=batch_size)
    found = told(run, recipe, "quantized")
    march(run, recipe)
    assert found.activations == streams[0].store.peak
    assert found.node_runs == streams[0].node_runs
    assert found.batches == streams[0].batches
    assert found.unknown == ()
    assert found.disk == streams[0].store.spilled == 0


def test_stops_of_block_biases_are_those_of_the_stream(streams) -> None:
    text = """g (float[B,5,16] x) => (float[B,5,16] y) {
      a = MatMul(x, w1)
      h = MatMul(a, w2)
      e = Exp(h)
      r = Add(a, e)
      u = Relu(r)
      c = MatMul(u, w3)
      s = Add(c, r)
      y = Exp(s)
    }"""
    made = model(text, w1=weight(16, 16), w2=weight(16, 16, seed=1), w3=weight(16, 16, seed=2))
    name_nodes(made)
    data = {"x": weight(7, 5, 16, seed=3)}
    run, recipe = opened(made, data, batch_size=1, bias="block", inputs="quantized")
    found = told(run, recipe, "quantized")
    march(run, recipe)
    assert [stop for segment in streams[0].segments for stop in segment.stops] == ["r", "s"]
    assert found.activations == streams[0].store.peak
    assert found.node_runs == streams[0].node_runs


def test_what_memory_does_not_hold_goes_to_disk(streams, monkeypatch) -> None:
    monkeypatch.setattr("comq_onnx.stats.memory.resident", lambda: 0)
    run, recipe = opened(*residual())
    peak = told(run, recipe, "quantized").activations
    small = replace(recipe, memory_gib=peak / GIB)  # half of it is for activations
    found = told(run, small, "quantized")
    assert found.disk == pytest.approx(peak / 2, rel=0.01)
    march(run, small)
    # Room that becomes free in memory is used before the disk is, so as much or more is written in all.
    assert 0.5 * found.disk <= streams[0].store.spilled <= 3 * found.disk


@pytest.mark.parametrize("made", [residual, convolutions])
def test_rows_are_those_that_are_summed(made) -> None:
    run, recipe = opened(*made())
    found = told(run, recipe, "float")
    collected = collect(load(run.plan.prepared), run.plan.layers, run.calibration, recipe)
    for layer in run.plan.layers:
        stats = collected.stats[layer.name]
        assert stats is not None
        assert found.rows[layer.name] == stats.count
    assert found.node_runs == run.calibration.batch_count * needed(run.plan.prepared, run.plan.layers)


def needed(proto: onnx.ModelProto, layers) -> int:
    """Nodes that some layer's input depends on, by walking back from each."""
    maker = {name: node for node in proto.graph.node for name in node.output}
    seen: set[str] = set()
    todo = [layer.input for layer in layers]
    while todo:
        node = maker.get(todo.pop())
        if node is not None and node.name not in seen:
            seen.add(node.name)
            todo += node.input
    return len(seen)


def test_more_passes_where_memory_is_short() -> None:
    run, recipe = opened(*residual())
    plenty = told(run, recipe, "float")
    small = replace(recipe, memory_gib=plenty.statistics / 2 / GIB)
    found = told(run, small, "float")
    passes = collect(load(run.plan.prepared), run.plan.layers, run.calibration, small).passes
    assert passes > 1
    assert found.node_runs > plenty.node_runs
    assert found.node_runs <= passes * plenty.node_runs


def test_the_batch_of_middle_size_stands_for_all() -> None:
    made, _ = residual()
    lengths = (2, 2, 3, 4, 40)  # 10.2 on average
    run, recipe = opened(made, [{"x": np.ones((1, n, 16), np.float32)} for n in lengths])
    assert middle_batch(run.calibration)["x"].shape == (1, 4, 16)
    assert told(run, recipe, "quantized").batches == len(lengths)


def test_shapes_that_cannot_be_told_are_counted() -> None:
    made, data = residual()
    made.graph.node.insert(1, onnx.helper.make_node("NonZero", ["shifted"], ["places"], "odd"))
    made.graph.output.append(onnx.ValueInfoProto(name="places"))
    run, recipe = opened(made, data)
    assert told(run, recipe, "quantized").unknown == ("places",)


def test_time_is_work_over_speed() -> None:
    run, recipe = opened(*convolutions())
    work = told(run, recipe, "quantized").work
    one, two = work.seconds(Speed(1e9, 1)), work.seconds(Speed(2e9, 2))
    assert set(one) == {"forward", "statistics", "solve", "check"}
    assert all(seconds > 0 for seconds in one.values())
    # Two cores halve what they share, and nothing else.
    assert two["solve"] == pytest.approx(one["solve"] / 2)
    for kind in work.alone:
        expected = work.shared[kind] / 2e9 + work.alone[kind] / 1e9
        assert two[kind] == pytest.approx(expected)


def test_more_samples_more_work() -> None:
    made, data = residual()
    works = []
    for samples in (3, 12):
        run, recipe = opened(made, data, calibration_samples=samples)
        works.append(told(run, recipe, "quantized").work.seconds(Speed(1e9, 1)))
    assert works[1]["statistics"] == pytest.approx(4 * works[0]["statistics"])
    assert works[1]["solve"] == pytest.approx(works[0]["solve"])
    assert 1 < works[1]["forward"] / works[0]["forward"] < 4


def test_every_segment_of_the_graph_is_counted_once() -> None:
    run, recipe = opened(*residual())
    segments = cut(run.plan.prepared.graph, run.plan.layers)
    runs = sum(len(s.nodes) * (1 if s.shared else 2) for s in segments if s.keeps)
    assert told(run, recipe, "quantized").node_runs == runs * run.calibration.batch_count


def test_speed_is_a_speed() -> None:
    speed = measured_speed(1)
    assert speed.threads == 1
    assert 1e8 < speed.products < 1e13
