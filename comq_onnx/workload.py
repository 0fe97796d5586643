"""How much work a run is, before it is done: for a bar that moves evenly and an honest time left.

All is in multiply-adds of a matrix product. A layer that R rows of activations meet, with a weight of K rows
and M columns, takes ``R K M`` in each network to run, ``R K (2 K)`` for the sums of what it sees (two of its
halves are ``K K`` each), and a multiple of ``K^2 M`` to solve.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import onnx
from onnx import ModelProto, helper

from comq_onnx.graph.cut import Segment
from comq_onnx.graph.tensors import stored_bytes
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Layout
from comq_onnx.run.data import Calibration
from comq_onnx.stats.patches import POSITIONS
from comq_onnx.stats.taps import ROWS_PER_INPUT, taps_of

STEPS = 1000
"""Steps of a bar: fine enough to see it move, few enough to cost nothing."""
SWEEPS = {"rtn": 3, "gptq": 10, "comq-paper": 20, "comq": 100}
"""Products ``K^2 M`` of a solver, those of its slower loops counted as several."""
EFFORTS = {"fast": 0.5, "normal": 1.0, "max": 6.0}
NODE = 50_000
"""What it takes to start one node, however little it computes."""
SMALL = 1024
"""Bytes of a constant up to which it may be a shape."""

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
        statistics[layer.name] = float(2 * rows * tap.groups * tap.rows**2)
    return Workload(tuple(forward), statistics, {la.name: work_to_solve(la.layout, recipe) for la in missing})


def work_to_solve(layout: Layout, recipe: Recipe) -> float:
    """Multiply-adds of one layer's solver."""
    if layout.kind == "gather":
        return float(layout.groups * layout.rows * layout.cols)
    effort = EFFORTS[recipe.effort] if recipe.solver == "comq" else 1.0
    return SWEEPS[recipe.solver] * effort * layout.groups * layout.rows**2 * layout.cols


def output_shapes(model: ModelProto, layers: Iterable[Layer], calibration: Calibration) -> Shapes:
    """Shapes of the layers' outputs on the first batch, as far as they can be told without running it."""
    light = ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if stored_bytes(tensor) <= SMALL:
            graph.initializer.add().CopyFrom(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for batch in islice(calibration.batches(), 1):
        for value in model.graph.input:
            if value.name in batch:
                kind = value.type.tensor_type.elem_type
                graph.input.append(helper.make_tensor_value_info(value.name, kind, batch[value.name].shape))
    wanted = {layer.output for layer in layers}
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    found = {value.name: value.type.tensor_type.shape.dim for value in inferred.graph.value_info}
    shapes = {name: tuple(d.dim_value for d in found[name]) for name in wanted & found.keys()}
    return {name: shape for name, shape in shapes.items() if all(shape)}


def _rows(layer: Layer, shapes: Shapes) -> float:
    """Rows of activations that a layer's weight meets in one batch, per group; 1 where it is not known."""
    shape = shapes.get(layer.output)
    return math.prod(shape) / (layer.layout.groups * layer.layout.cols) if shape else 1.0


def _product(layer: Layer, rows: float) -> float:
    return rows * layer.layout.groups * layer.layout.rows * layer.layout.cols
