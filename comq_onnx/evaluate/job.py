"""A run on paper: its model, its data by their shapes, and what follows from these alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import onnx
from onnx import TensorProto

from comq_onnx.backends.engine import cpu_engine
from comq_onnx.evaluate.footprint import workspace
from comq_onnx.evaluate.work import Shapes, solving, summing
from comq_onnx.graph.cut import Segment, cut
from comq_onnx.graph.external import is_external
from comq_onnx.graph.residual import residual_adds
from comq_onnx.graph.tensors import stored_bytes
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.run.data import Batch, Calibration
from comq_onnx.run.widen import HALF, widen
from comq_onnx.stats.memory import memory_limit
from comq_onnx.stats.taps import Sampling, Tap


def middle_batch(calibration: Calibration) -> Batch:
    """The batch whose elements are nearest to the mean in number; synthetic ones are all alike."""
    count = 1 if calibration.synthetic else None
    sizes = [_elements(batch) for batch in islice(calibration.batches(), count)]
    mean = sum(sizes) / len(sizes)
    nearest = min(range(len(sizes)), key=lambda number: abs(sizes[number] - mean))
    return next(islice(calibration.batches(), nearest, None))


def _elements(batch: Batch) -> int:
    return sum(value.size for value in batch.values())


def lies_outside(prepared: onnx.ModelProto) -> bool:
    """Whether weights are not held in memory: then layers are walked through one by one in any case."""
    return any(is_external(tensor) for tensor in prepared.graph.initializer)


def widen_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float32, for its shapes and sizes alone: values that lie elsewhere are not read."""
    halves = [i for i, t in enumerate(model.graph.initializer) if is_external(t) and t.data_type in HALF]
    if halves:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for i in halves:
            copy.graph.initializer[i].data_type = TensorProto.FLOAT
        model = copy
    return widen(model)


LEAST = 8
"""Part of the limit that activations have in any case"""


@dataclass(frozen=True)
class Job:
    """What is asked for, and the shapes of all tensors."""

    model: onnx.ModelProto
    """Widened"""
    layers: tuple[Layer, ...]
    grids: Mapping[str, Grid]
    calibration: Calibration
    recipe: Recipe
    shapes: Shapes
    paired: bool = True
    """Whether a quantized network runs beside the float one"""

    @property
    def batches(self) -> int:
        return self.calibration.batch_count

    @property
    def limit(self) -> int:
        return memory_limit(self.recipe.memory_gib)

    @property
    def segments(self) -> list[Segment]:
        """Those of the sequential stream."""
        blocks = residual_adds(self.model.graph, self.layers)[0] if self.recipe.bias == "block" else []
        found = cut(self.model.graph, self.layers, [block.output for block in blocks])
        return found if self.paired else [replace(segment, shared=True) for segment in found]

    @property
    def workspace(self) -> int:
        """Bytes of sessions, statistics and the solver, most at a time."""
        weights = {tensor.name: stored_bytes(tensor) for tensor in self.model.graph.initializer}
        threads = cpu_engine(self.recipe.threads).threads
        return workspace(self.segments, weights, self.shapes, threads, self.paired)

    @property
    def store_limit(self) -> int:
        """Bytes of live activations in memory."""
        limit = self.limit
        return max(limit - self.workspace, limit // LEAST) if lies_outside(self.model) else limit // 2

    @property
    def file_bytes(self) -> int:
        """Of the codes, and of all that is no layer's weight."""
        whole = sum(stored_bytes(tensor) for tensor in self.model.graph.initializer)
        sizes = {layer.name: math.prod(layer.layout.shape) for layer in self.layers}
        return whole + sum(size * (self.grids[name].bits - 32) // 8 for name, size in sizes.items())

    def unknown(self) -> tuple[str, ...]:
        made = (name for node in self.model.graph.node for name in node.output if name)
        return tuple(name for name in made if name not in self.shapes)

    def rows(self, tap: Tap) -> int:
        """Rows that the statistics of a tap are summed over, per group; 0 where shapes are not known."""
        if tap.tensor not in self.shapes:
            return 0
        samples = self.calibration.samples
        if tap.kind != "conv":
            return self.batches * self.shapes[tap.tensor].size // (tap.rows * tap.groups)
        layer = next(layer for layer in self.layers if layer.name == tap.layers[0])
        if layer.output not in self.shapes:
            return 0
        total = math.prod(self.shapes[layer.output].shape[2:])
        return samples * len(Sampling(self.recipe.seed, samples).positions(tap, total, 0))

    def statistics(self, taps: Sequence[Tap], drifting: bool) -> tuple[float, float]:
        """Work that is shared, and work of one core."""
        parts = [summing(tap, self.rows(tap), self.calibration.samples, drifting) for tap in taps]
        return sum(shared for shared, _ in parts), sum(alone for _, alone in parts)

    def solving(self, drifting: bool) -> float:
        grids = self.grids
        return sum(solving(layer, grids[layer.name], self.recipe, drifting) for layer in self.layers)
