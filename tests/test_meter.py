"""What a progress bar counts, against the estimate of a whole run and against what a run tells."""

from collections.abc import Sequence

import numpy as np
import pytest
from graphs import model, weight

from comq_onnx import Recipe
from comq_onnx.evaluate.estimate import Steps, estimate, steps_of
from comq_onnx.graph.cut import cut
from comq_onnx.meter import STEPS
from comq_onnx.planning import Opened, open_run
from comq_onnx.records import Layer
from comq_onnx.sequential import march

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


def steps(opened: Opened, missing: Sequence[Layer]) -> Steps:
    plan = opened.plan
    return steps_of(plan.prepared, plan.layers, missing, plan.grids, opened.calibration, Recipe())


def test_layers_that_are_there_cost_nothing_but_the_way_to_those_that_are_not(opened: Opened) -> None:
    layers = opened.plan.layers
    segments = cut(opened.plan.prepared.graph, layers)
    whole, middle = steps(opened, layers), steps(opened, layers[1:2])
    last = max(i for i, s in enumerate(segments) if layers[1] in s.layers)
    assert middle.forward[: last + 1] == whole.forward[: last + 1]
    assert not any(middle.forward[last + 1 :])
    assert set(middle.solve) == {layers[1].name}
    assert steps(opened, []).total == 0


def test_steps_add_up_to_the_estimate_of_the_whole(opened: Opened) -> None:
    plan, found = opened.plan, steps(opened, opened.plan.layers)
    work = estimate(plan.prepared, plan.layers, plan.grids, opened.calibration, Recipe(), "quantized").work
    for kind, told in (("forward", sum(found.forward)), ("statistics", sum(found.statistics.values()))):
        assert told == pytest.approx(work.shared[kind] + work.alone[kind])
    assert sum(found.solve.values()) == pytest.approx(work.shared["solve"])


def test_the_work_told_of_a_run_adds_up_to_what_was_announced(opened: Opened) -> None:
    told: list[tuple[str, int, int]] = []
    march(opened, Recipe(batch_size=2, effort="fast"), lambda *said: told.append(said))
    done_steps = [done for stage, done, total in told if stage == "solve" and total == STEPS]
    assert len(done_steps) == len(told)
    assert done_steps == sorted(set(done_steps))
    # All but rounding is told before the end is, and batches of a segment move it too.
    assert done_steps[-1] == STEPS
    assert done_steps[-2] >= STEPS - 2
    assert len(done_steps) > 3 * len(opened.plan.layers)
