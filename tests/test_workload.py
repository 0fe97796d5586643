"""Work counted beforehand, against what a run really multiplies."""

import numpy as np
import onnx
import pytest
from graphs import model, weight

from comq_onnx import Recipe
from comq_onnx.graph.cut import cut
from comq_onnx.planning import Opened, open_run
from comq_onnx.run.session import SessionOptions
from comq_onnx.sequential import march
from comq_onnx.workload import LAYER, NODE, STEPS, TAP, Shapes, estimate, output_shapes

# The Reshape's target is computed: shape inference alone does not get through it.
NET = """g (float[B,6,9,9] image) => (float[B,N] y) {
  c = Conv<pads=[1,1,1,1],strides=[2,2],group=2>(image, w_conv)
  s = Shape(c)
  two = Slice(s, zero, stop)
  t = Concat<axis=0>(two, rest)
  f = Reshape(c, t)
  a = MatMul(f, w_a)
  y = MatMul(a, w_b)
}"""
BATCHES = 5


@pytest.fixture(scope="module")
def opened() -> Opened:
    net = model(
        NET,
        w_conv=weight(27, 8).T.reshape(8, 3, 3, 3).copy(),
        zero=np.array([0]),
        stop=np.array([2]),
        rest=np.array([25]),
        w_a=weight(25, 12, seed=1),
        w_b=weight(12, 7, seed=2),
    )
    return open_run(net, {"image": weight(2 * BATCHES, 6, 9, 9, seed=3)}, Recipe(batch_size=2))


def shapes_of(opened: Opened) -> Shapes:
    copy = onnx.ModelProto()
    copy.CopyFrom(opened.plan.prepared)
    return output_shapes(copy, opened.plan.layers, opened.calibration, SessionOptions())


def test_shapes_are_those_of_the_first_batch(opened: Opened) -> None:
    names = [layer.output for layer in opened.plan.layers]
    assert shapes_of(opened) == dict(zip(names, [(2, 8, 5, 5), (2, 8, 12), (2, 8, 7)], strict=True))


def test_products_are_counted_one_by_one(opened: Opened) -> None:
    layers = opened.plan.layers
    segments = cut(opened.plan.prepared.graph, layers)
    work = estimate(segments, layers, shapes_of(opened), opened.calibration, Recipe(solver="rtn"))
    per_batch = {"Conv": 2 * 8 * 25 * 27, "MatMul": 2 * 8 * 12 * 25}
    expected = [
        BATCHES
        * (1 if segment.shared else 2)
        * (NODE * len(segment.nodes) + sum(per_batch.get(node.op_type, 0) for node in segment.nodes))
        for segment in segments
    ]
    assert list(work.forward) == expected
    # Rows that the sums see: 25 positions of 10 samples in 2 groups, and 8 rows of 10 samples.
    sums = (2 * 250 * 2 * 27**2, 2 * 80 * 25**2, 2 * 80 * 12**2)
    assert [work.statistics[la.name] for la in layers] == [TAP * BATCHES + s for s in sums]
    cells = (2 * 27**2 * 4, 25**2 * 12, 12**2 * 7)
    assert [(work.solve[la.name] - LAYER) for la in layers] == pytest.approx([2 * c for c in cells])


def test_layers_that_are_there_cost_nothing_but_the_way_to_those_that_are_not(opened: Opened) -> None:
    layers = opened.plan.layers
    segments = cut(opened.plan.prepared.graph, layers)
    shapes, recipe = shapes_of(opened), Recipe()
    whole = estimate(segments, layers, shapes, opened.calibration, recipe)
    middle = estimate(segments, layers[1:2], shapes, opened.calibration, recipe)
    last = max(i for i, s in enumerate(segments) if layers[1] in s.layers)
    assert middle.forward[: last + 1] == whole.forward[: last + 1]
    assert not any(middle.forward[last + 1 :])
    assert set(middle.solve) == {layers[1].name}
    assert estimate(segments, [], shapes, opened.calibration, recipe).total == 0


def test_the_work_told_of_a_run_adds_up_to_what_was_announced(opened: Opened) -> None:
    told: list[tuple[str, int, int]] = []
    march(opened, Recipe(batch_size=2, effort="fast"), lambda *said: told.append(said))
    steps = [done for stage, done, total in told if stage == "solve" and total == STEPS]
    assert len(steps) == len(told)
    assert steps == sorted(set(steps))
    # All but rounding is told before the end is, and batches of a segment move it too.
    assert steps[-1] == STEPS
    assert steps[-2] >= STEPS - 2
    assert len(steps) > 3 * len(opened.plan.layers)


def test_a_model_that_does_not_run_has_no_shapes(opened: Opened) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(opened.plan.prepared)
    next(n for n in broken.graph.node if n.op_type == "Reshape").op_type = "NoSuchOperator"
    assert output_shapes(broken, opened.plan.layers, opened.calibration, SessionOptions()) == {}
