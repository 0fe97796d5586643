"""Time the float model, and every distinct layer in each form that the target writes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.job import middle_batch
from comq_onnx.graph.io import load, to_proto
from comq_onnx.grid import Grid
from comq_onnx.latency.alone import (
    Alone,
    Shapes,
    Signature,
    copies_for,
    cut_out,
    fed,
    observed_shapes,
    row_of,
    signature,
)
from comq_onnx.latency.model import FLOAT, FLOAT16, LatencyModel
from comq_onnx.planning import Opened, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.run.data import Batch
from comq_onnx.run.timing import time_models
from comq_onnx.targets import TARGETS
from comq_onnx.targets.size import made_up
from comq_onnx.targets.target import CAST_SCALE, PLAIN, PLANES

FOLDED = (CAST_SCALE, PLAIN, PLANES)
"""Forms that are floats once the model is loaded, so that they take as long as float"""
UNTIMED = {
    "openvino": "OpenVINO is not timed",
    "web": "browsers are not timed",
    "tensorrt": "TensorRT is not timed",
    "fakequant": "its files hold floats and take as long as float",
}
FIX = "use --target-size or --avg-bits"

Timer = Callable[[Sequence[onnx.ModelProto], Batch, int], list[float]]
"""Seconds of one run of each model on the same feeds, on so many threads"""
Row = tuple[onnx.ModelProto, list[Layer]]


def latency_refusal(recipe: Recipe) -> str:
    """Why there is no latency model for what `recipe` asks for, as a clause; empty where there is one."""
    if recipe.target in UNTIMED:
        return f"no latency model for target {recipe.target}: {UNTIMED[recipe.target]}"
    if recipe.activations in ("int8", "dynamic"):
        return f"no latency model for --activations {recipe.activations}: neighbours in 8 bits share work"
    if recipe.high_precision_dtype == "fp16":
        return "no latency model for --high-precision-dtype fp16: layers are compared with float32"
    return ""


def measure_latency(
    opened: Opened,
    candidates: Mapping[str, Sequence[Grid]],
    recipe: Recipe,
    progress: Progress = silent,
    timer: Timer = time_models,
) -> LatencyModel:
    """Time the float model, and every distinct layer of `candidates` in float and in each form on its grids.

    Layers of equal shapes, and grids that are written the same, share one measurement. Forms that are folded
    to floats at load take the float time unmeasured; so do embeddings, of which few rows are looked up, and
    layers inside subgraphs, whose inputs are not seen. The CPU is what is timed, on `recipe.threads` threads.
    Numbers differ from run to run.

    Parameters
    ----------
    opened
        Its prepared model has an opset that holds all candidates.
    candidates
        Grids by name of layer; layers that are not named here stay as they are, in the rest.

    Raises
    ------
    ComqError
        `latency_refusal` says why, or the model does not run.
    """
    check_measurable(opened, recipe)
    prepared, batch = opened.plan.prepared, middle_batch(opened.calibration)
    layers = [layer for layer in opened.plan.layers if layer.name in candidates]
    groups, shapes = groups_of(prepared, layers, batch)
    stored = sum(part.bytes for group in groups for part in group)
    # Its time is taken again between the layers' times, so that one busy second spoils neither.
    wholes = timer([prepared], batch, recipe.threads)
    times = {layer.name: as_float(candidates[layer.name], 0.0) for layer in layers}
    for done, group in enumerate(groups):
        progress("time", done, len(groups))
        wanted = {part.layer.name: candidates[part.layer.name] for part in group}
        bench = Bench(group[0], shapes, prepared.opset_import, recipe)
        times |= times_of(bench, wanted, copies_for(group[0], stored), timer)
        if times[group[0].layer.name][FLOAT]:
            wholes += timer([prepared], batch, recipe.threads)
    progress("time", len(groups), len(groups))
    whole = median(wholes)
    return LatencyModel(whole, max(0.0, whole - sum(own[FLOAT] for own in times.values())), times)


def check_measurable(opened: Opened, recipe: Recipe) -> None:
    """ComqError where there is no latency model."""
    why = latency_refusal(recipe)
    if not why and opened.plan.placement.layers:
        why = "no latency model for layers that compute in 8 bits"
    if why:
        raise ComqError(why, where="--target-latency", fix=FIX)


def timed_alone(layer: Layer) -> bool:
    """Whether a layer may take another time than in float, and its inputs are seen."""
    return layer.op != "Gather" and not layer.in_subgraph


def as_float(grids: Sequence[Grid], seconds: float) -> dict[str, float]:
    """The times of a layer that takes `seconds` however it is stored."""
    return dict.fromkeys((FLOAT, FLOAT16, *map(str, grids)), seconds)


def groups_of(
    prepared: onnx.ModelProto, layers: Sequence[Layer], batch: Batch
) -> tuple[list[list[Alone]], Shapes]:
    """Layers that take the same time together, those that cannot be timed left out; and what they meet."""
    parts = list(cut_out(prepared, [layer for layer in layers if timed_alone(layer)]))
    shapes = observed_shapes(prepared, {name for part in parts for name in part.met}, batch)
    groups: dict[Signature, list[Alone]] = {}
    for part in parts:
        groups.setdefault(signature(part, shapes), []).append(part)
    return list(groups.values()), shapes


def times_of(
    bench: "Bench", candidates: Mapping[str, Sequence[Grid]], copies: int, timer: Timer
) -> dict[str, dict[str, float]]:
    """Times by name and storage of layers that are all like the one on the bench."""
    grids = tuple(dict.fromkeys(grid for own in candidates.values() for grid in own))
    found = bench.seconds(grids, copies, timer)
    base = found.get(None, 0.0)
    return {
        name: as_float(own, base) | {str(grid): found[grid] for grid in own if grid in found}
        for name, own in candidates.items()
    }


@dataclass(frozen=True)
class Bench:
    """Where a layer is timed alone."""

    part: Alone
    shapes: Shapes
    imports: Sequence[onnx.OperatorSetIdProto]
    """Of the prepared model"""
    recipe: Recipe

    def seconds(self, grids: Sequence[Grid], copies: int, timer: Timer) -> dict[Grid | None, float]:
        """By grid, None for float, those that are folded to floats left out; nothing where all are.

        Grids that are written the same are timed once.
        """
        alike = self.alike(grids)
        if not alike:
            return {}
        row = row_of(self.part, copies, self.shapes, self.imports)
        models = [row[0], *(self.written(row, same[0], True)[0] for same in alike)]
        own, *times = timer(models, fed(self.part, self.shapes), self.recipe.threads)
        found: dict[Grid | None, float] = {None: own / copies}
        for same, time in zip(alike, times, strict=True):
            found |= dict.fromkeys(same, time / copies)
        return found

    def alike(self, grids: Sequence[Grid]) -> list[list[Grid]]:
        """Grids that are not folded to floats, together where files of equal codes are equal."""
        row = row_of(self.part, 1, self.shapes, self.imports)
        found: dict[bytes, list[Grid]] = {}
        for grid in grids:
            model, form = self.written(row, grid, False)
            if form not in FOLDED:
                mark = hashlib.sha256(model.SerializeToString()).digest()
                found.setdefault(mark, []).append(grid)
        return list(found.values())

    def written(self, row: Row, grid: Grid, filled: bool) -> tuple[onnx.ModelProto, str]:
        """A row as the target writes it, and the form of its layers.

        Codes are `filled` with random ones, or all zero.
        """
        model, layers, rng = load(row[0]), row[1], np.random.default_rng(2)
        solved = {}
        for layer in layers:
            solution = made_up(layer, grid, self.recipe)
            if filled:
                codes = rng.integers(grid.lo, grid.hi, solution.codes.shape, grid.code_dtype, endpoint=True)
                solution = replace(solution, codes=codes)
            solved[layer.name] = solution
        written = TARGETS[self.recipe.target].rewrite(model, layers, solved, self.recipe)
        return to_proto(model), written[0].form
