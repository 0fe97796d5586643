"""How much work a run is, before it is done: for a bar that moves evenly and an honest time left.

All is in multiply-adds of a matrix product. A layer that R rows of activations meet, with a weight of K rows
and M columns, takes ``R K M`` in each network to run, ``R K (2 K)`` for the sums of what it sees (two of its
halves are ``K K`` each), and a multiple of ``K^2 M`` to solve.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from onnx import ModelProto

from comq_onnx.errors import ComqError
from comq_onnx.graph.cut import Segment, streamed
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Layout
from comq_onnx.run.data import Calibration
from comq_onnx.run.session import SessionOptions, open_session
from comq_onnx.run.tapped import SHAPE_PREFIX, TappedModel, graph_inputs
from comq_onnx.stats.patches import POSITIONS
from comq_onnx.stats.taps import ROWS_PER_INPUT, taps_of

STEPS = 1000
"""Steps of a bar: fine enough to see it move, few enough to cost nothing."""
SWEEPS = {"rtn": 2, "gptq": 5, "comq-paper": 10, "comq": 30}
"""Products ``K^2 M`` of a solver, those of its slower loops counted as several."""
EFFORTS = {"fast": 0.5, "normal": 1.0, "max": 6.0}
NODE, TAP, LAYER = 1e5, 1e6, 5e7
"""What takes its time however small it is: to start a node, to gather a batch's rows, to solve a layer."""


Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Workload:
    """What is to be done, in multiply-adds."""

    forward: tuple[float, ...]
    """By segment: to run it on all batches"""
    statistics: Mapping[str, float]
    """By layer; layers that share their sums have them counted once"""
    solve: Mapping[str, float]
    """By layer"""

    @property
    def total(self) -> float:
        return sum(self.forward) + sum(self.statistics.values()) + sum(self.solve.values())


class Meter:
    """Work done, told as steps of `STEPS`, never twice the same and never back."""

    def __init__(self, told: Callable[[int, int], None], total: float) -> None:
        self._told, self._total, self._done, self._step = told, total, 0.0, 0
        told(0, STEPS)

    def add(self, work: float) -> None:
        """So much more is done. The last step is told by `finish` alone."""
        self._done += work
        step = min(int(STEPS * self._done / self._total), STEPS - 1) if self._total else 0
        if step > self._step:
            self._step = step
            self._told(step, STEPS)

    def finish(self) -> None:
        self._told(STEPS, STEPS)


def estimate(
    segments: Sequence[Segment],
    missing: Sequence[Layer],
    shapes: Shapes,
    calibration: Calibration,
    recipe: Recipe,
) -> Workload:
    """The work of solving the layers `missing` one after the other.

    `shapes` are those of the first batch's tensors (see `output_shapes`), by which all batches are judged.
    Segments behind the last layer that is missing are not run.
    """
    names = {layer.name for layer in missing}
    batches, samples = calibration.batch_count, calibration.samples
    last = max((i for i, s in enumerate(segments) if any(la.name in names for la in s.layers)), default=-1)
    made = {layer.name: layer for s in segments for layer in s.layers}
    forward = []
    for at, segment in enumerate(segments):
        layers = [made[node.name] for node in segment.nodes if node.name in made]
        work = NODE * len(segment.nodes) + sum(_product(la, _rows(la, shapes)) for la in layers)
        forward.append(float(batches * work * (1 if segment.shared else 2)) if at <= last else 0.0)
    statistics = dict.fromkeys(names, 0.0)
    for tap in taps_of(missing):
        layer = next(la for la in missing if la.name == tap.layers[0])
        rows = batches * _rows(layer, shapes)
        if tap.geometry is not None:
            rows = min(rows, samples * max(POSITIONS, ROWS_PER_INPUT * tap.rows // max(samples, 1)))
        statistics[layer.name] = TAP * batches + 2 * rows * tap.groups * tap.rows**2
    return Workload(tuple(forward), statistics, {la.name: work_to_solve(la.layout, recipe) for la in missing})


def work_to_solve(layout: Layout, recipe: Recipe) -> float:
    """Multiply-adds of one layer's solver."""
    if layout.kind == "gather":
        return float(layout.groups * layout.rows * layout.cols)
    effort = EFFORTS[recipe.effort] if recipe.solver == "comq" else 1.0
    return LAYER + SWEEPS[recipe.solver] * effort * layout.groups * layout.rows**2 * layout.cols


def output_shapes(
    model: ModelProto, layers: Iterable[Layer], calibration: Calibration, options: SessionOptions
) -> Shapes:
    """Shapes of the layers' outputs, from running the model on the first batch.

    Shape inference alone does not get through what exporters make of a dynamic axis. A model that does not
    run has no shapes here: it is refused with its reason where it is run in earnest.

    `model` is changed; see `TappedModel`.
    """
    names = [layer.output for layer in layers if streamed(layer)]
    if not names:
        return {}
    tapped = TappedModel(model).with_shapes(names)
    try:
        session = open_session(tapped, replace(options, optimize=False))
        for batch in islice(calibration.batches(), 1):
            found = session.run({name: batch[name] for name in graph_inputs(tapped) if name in batch})
            return {name: tuple(found[SHAPE_PREFIX + name].tolist()) for name in names}
    except ComqError:
        pass
    return {}


def _rows(layer: Layer, shapes: Shapes) -> float:
    """Rows of activations that a layer's weight meets in one batch, per group; 1 where it is not known."""
    shape = shapes.get(layer.output)
    return math.prod(shape) / (layer.layout.groups * layer.layout.cols) if shape else 1.0


def _product(layer: Layer, rows: float) -> float:
    return rows * layer.layout.groups * layer.layout.rows * layer.layout.cols
