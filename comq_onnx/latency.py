"""How long a model takes in onnxruntime with every layer stored as chosen, told from layers timed alone.

The model is additive: what the float model takes, and for each layer what its storage takes more or less than
float. Every distinct layer is timed alone, as a model of its own that the target writes, beside its float
form. Times differ from run to run: what is chosen by them is not the same bit by bit in every run.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.estimate import middle_batch
from comq_onnx.graph.cut import reads_of
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.tensors import FLOAT_DTYPES
from comq_onnx.grid import Grid
from comq_onnx.planning import Opened, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.run.data import Batch
from comq_onnx.run.session import SessionOptions, open_session
from comq_onnx.run.tapped import SHAPE_PREFIX, TappedModel
from comq_onnx.run.timing import time_models
from comq_onnx.run.widen import widen
from comq_onnx.targets import TARGETS
from comq_onnx.targets.size import made_up
from comq_onnx.targets.target import CAST_SCALE, PLAIN

FLOAT, FLOAT16 = "float", "float16"
FOLDED = (CAST_SCALE, PLAIN)
"""Forms that are floats once the model is loaded, so that they take as long as float"""
Signature = tuple[object, ...]
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
UNTIMED = {
    "openvino": "OpenVINO is not timed",
    "web": "browsers are not timed",
    "tensorrt": "TensorRT is not timed",
    "fakequant": "its files hold floats and take as long as float",
}
FIX = "use --target-size or --avg-bits"

Shapes = Mapping[str, tuple[int, ...]]
Timer = Callable[[Sequence[onnx.ModelProto], Batch, int], list[float]]
"""Seconds of one run of each model on the same feeds, on so many threads"""


@dataclass(frozen=True)
class Latency:
    """A latency asked for: seconds, or a multiple of the float model's."""

    amount: float
    relative: bool

    def seconds(self, whole: float) -> float:
        """The latency in seconds, `whole` being the float model's."""
        return self.amount * whole if self.relative else self.amount


def parse_latency(text: str) -> Latency:
    """``5ms``, ``0.8s`` or ``800us``; ``0.8x`` is times the float model's. ComqError for anything else."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(us|ms|s|x)", text.strip())
    if found is None or not float(found[1]):
        raise ComqError(
            f"{text!r} is no latency",
            where="--target-latency",
            fix="write 5ms, 0.8s or 800us, or 0.8x for a multiple of the float model's",
        )
    amount, unit = float(found[1]), found[2]
    return Latency(amount, True) if unit == "x" else Latency(amount * UNITS[unit], False)


@dataclass(frozen=True)
class LatencyModel:
    """Seconds on one batch of calibration data, the middle one."""

    whole: float
    """Of the float model, the median"""
    rest: float
    """What is not in the layers: `whole` without the float times in `layers`, never below 0"""
    layers: Mapping[str, Mapping[str, float]]
    """Of a layer alone, by its name and how it is stored: ``str(grid)``, ``float`` or ``float16``.

    A layer that takes as long as float however it is stored has zeros: its time is in the rest.
    """

    def seconds(self, choice: Mapping[str, str]) -> float:
        """Of the whole model; a layer that has no choice is float. KeyError for what was not measured."""
        if unknown := choice.keys() - self.layers.keys():
            raise KeyError(f"no layer {min(unknown)!r} was measured")
        return self.rest + sum(times[choice.get(name, FLOAT)] for name, times in self.layers.items())


@dataclass(frozen=True)
class Alone:
    """A layer cut out of its model."""

    layer: Layer
    nodes: tuple[NodeProto, ...]
    """Its node, and behind a MatMul the Add of its bias, which onnxruntime fuses into the product"""
    inputs: tuple[str, ...]
    """What the nodes read that is computed"""
    constants: Mapping[str, tuple[int, ...]]
    """Shapes of the floats that are stored"""


def latency_refusal(recipe: Recipe) -> str:
    """Why there is no latency model for what `recipe` asks for, as a clause; empty where there is one."""
    if recipe.target in UNTIMED:
        return f"no latency model for target {recipe.target}: {UNTIMED[recipe.target]}"
    if recipe.activations in ("int8", "dynamic"):
        return f"no latency model for --activations {recipe.activations}: layers in 8 bits share their work"
    if recipe.high_precision_dtype == "fp16":
        return "no latency model for --high-precision-dtype fp16: float32 is what layers are compared with"
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
    check_measurable(opened, candidates, recipe)
    plan = opened.plan
    batch = middle_batch(opened.calibration)
    layers = [layer for layer in plan.layers if layer.name in candidates]
    alone = [
        cut_out(plan.prepared, layer) for layer in layers if layer.op != "Gather" and not layer.in_subgraph
    ]
    shapes = observed_shapes(plan.prepared, {name for part in alone for name in part.inputs}, batch)
    whole = timer([plan.prepared], batch, recipe.threads)[0]
    alike: dict[Signature, list[Alone]] = {}
    for part in alone:
        alike.setdefault(signature(part, shapes), []).append(part)
    imports = list(plan.prepared.opset_import)
    times = {layer.name: as_float(candidates[layer.name], 0.0) for layer in layers}
    for done, parts in enumerate(alike.values()):
        progress("time", done, len(alike))
        grids = tuple(dict.fromkeys(grid for part in parts for grid in candidates[part.layer.name]))
        models = written(parts[0], shapes, imports, grids, recipe)
        found = time_forms(models, fed(parts[0], shapes), recipe.threads, timer)
        for part in parts:
            own = as_float(candidates[part.layer.name], found.get(None, 0.0))
            times[part.layer.name] = own | {
                str(g): found[g] for g in candidates[part.layer.name] if g in found
            }
    progress("time", len(alike), len(alike))
    return LatencyModel(whole, max(0.0, whole - sum(t[FLOAT] for t in times.values())), times)


def check_measurable(opened: Opened, candidates: Mapping[str, Sequence[Grid]], recipe: Recipe) -> None:
    """ComqError where there is no latency model."""
    why = latency_refusal(recipe)
    if not why and any(name in opened.plan.placement.layers for name in candidates):
        why = "no latency model for layers that compute in 8 bits"
    if why:
        raise ComqError(why, where="--target-latency", fix=FIX)


def as_float(grids: Sequence[Grid], seconds: float) -> dict[str, float]:
    """The times of a layer that takes `seconds` however it is stored."""
    return dict.fromkeys((FLOAT, FLOAT16, *map(str, grids)), seconds)


def cut_out(model: onnx.ModelProto, layer: Layer) -> Alone:
    """A layer of the main graph with what is fused into it."""
    graph = model.graph
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    node = next(node for node in graph.node if node.name == layer.name)
    nodes = [node]
    if layer.op == "MatMul" and all(value.name != layer.output for value in graph.output):
        readers = [other for other in graph.node if layer.output in reads_of(other)]
        if len(readers) == 1 and readers[0].op_type == "Add" and stored.keys() & set(readers[0].input):
            nodes += readers
    made = {name for each in nodes for name in each.output}
    read = [name for each in nodes for name in each.input if name and name not in made]
    constants = {name: stored[name] for name in read if name in stored} | {layer.weight: layer.layout.shape}
    return Alone(layer, tuple(nodes), tuple(name for name in read if name not in constants), constants)


def observed_shapes(model: onnx.ModelProto, names: Collection[str], batch: Batch) -> Shapes:
    """The shapes that tensors of the main graph have on a batch."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    session = open_session(
        TappedModel(widen(copy)).with_shapes(sorted(names)), SessionOptions(optimize=False)
    )
    found = session.run(batch)
    return {name: tuple(map(int, found[SHAPE_PREFIX + name])) for name in names}


def signature(part: Alone, shapes: Shapes) -> Signature:
    """What decides how long a layer takes, the values it holds apart."""
    layer = part.layer
    sizes = (*(shapes[name] for name in part.inputs), *part.constants.values())
    return layer.op, layer.layout, layer.geometry, layer.dtype, len(part.nodes), sizes


def written(
    part: Alone,
    shapes: Shapes,
    imports: Sequence[onnx.OperatorSetIdProto],
    grids: Sequence[Grid],
    recipe: Recipe,
) -> dict[Grid | None, onnx.ModelProto]:
    """The layer in float, under None, and as the target writes it on grids that are not folded to floats."""
    proto = as_model(part, shapes, imports)
    models: dict[Grid | None, onnx.ModelProto] = {None: proto}
    for grid in grids:
        model = load(proto)
        solved = {part.layer.name: made_up(part.layer, grid, recipe)}
        (form,) = TARGETS[recipe.target].rewrite(model, [part.layer], solved, recipe)
        if form.form not in FOLDED:
            models[grid] = to_proto(model)
    return models


def as_model(part: Alone, shapes: Shapes, imports: Sequence[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """A model of the layer alone, with weights as large as they are after training.

    Zeros and numbers near the smallest float take other times than those that occur.
    """
    rng, kind = np.random.default_rng(0), helper.np_dtype_to_tensor_dtype(FLOAT_DTYPES[part.layer.dtype])
    constants = []
    for name, shape in part.constants.items():
        values = rng.standard_normal(shape, np.float32) / part.layer.layout.rows**0.5
        constants.append(numpy_helper.from_array(values.astype(FLOAT_DTYPES[part.layer.dtype]), name))
    inputs = [helper.make_tensor_value_info(name, kind, shapes[name]) for name in dict.fromkeys(part.inputs)]
    output = helper.make_tensor_value_info(part.nodes[-1].output[0], kind, None)
    graph = helper.make_graph(part.nodes, "alone", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=imports)


def fed(part: Alone, shapes: Shapes) -> Batch:
    """Normal numbers for what the layer reads."""
    rng, dtype = np.random.default_rng(1), FLOAT_DTYPES[part.layer.dtype]
    return {name: rng.standard_normal(shapes[name], np.float32).astype(dtype) for name in part.inputs}


def time_forms(
    models: Mapping[Grid | None, onnx.ModelProto], feeds: Batch, threads: int, timer: Timer
) -> dict[Grid | None, float]:
    """Seconds by grid, None for float; nothing where all grids are folded. Equal files are timed once."""
    if len(models) == 1:
        return {}
    marks = {grid: hashlib.sha256(model.SerializeToString()).digest() for grid, model in models.items()}
    distinct = {marks[grid]: model for grid, model in models.items()}
    seconds = dict(zip(distinct, timer(list(distinct.values()), feeds, threads), strict=True))
    return {grid: seconds[mark] for grid, mark in marks.items()}
