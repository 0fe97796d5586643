"""Measure what each layer's storages cost the network: curves, then dual prices, on the float network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from comq_onnx.allocate.allocation import Candidate, Point
from comq_onnx.allocate.curves import Trial, curve
from comq_onnx.allocate.distortion import Outputs, Watched, divergence, watched
from comq_onnx.allocate.prices import effect_at, effects_of, price_of
from comq_onnx.allocate.storage import Storage
from comq_onnx.backends.engine import open_engine
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.layerwise import scale_dtype
from comq_onnx.planning import Opened, Progress
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer
from comq_onnx.run.data import Batch
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.switched import Switched
from comq_onnx.run.widen import widen

SAMPLES = 8
"""Batches that prices are measured on, evenly from the second half of the calibration data"""
HALF_LOSS = 2.0**-24
"""Squared relative error of a weight in float16, and so about that of its layer's output"""
ANCHORS = ("int4", "int2")
"""Widths that are measured in the network; the others are told from their losses"""


@dataclass(frozen=True)
class Priced:
    """A layer whose storage is to be chosen."""

    layer: Layer
    trials: Mapping[str, Trial]
    """By name of the storage; floats have none"""
    candidates: tuple[Candidate, ...]
    price: float
    uncertainty: float


@dataclass(frozen=True)
class Bed:
    """The float network with weights that can be switched, and its answers."""

    network: Switched
    what: Sequence[Watched]
    samples: Sequence[tuple[Batch, Outputs]]

    def point(self, kind: str, size: int, chosen: Mapping[str, Trial]) -> Point:
        """All of these trials at once, measured."""
        fed = self.network.switch({name: trial.solution for name, trial in chosen.items()})
        apart = [divergence(truth, self.network.run_with(b, fed), self.what) for b, truth in self.samples]
        return Point(kind, size, float(np.mean(apart)) if apart else 0.0)


def open_bed(opened: Opened, layers: Sequence[Layer], recipe: Recipe) -> Bed:
    """Run the float network on samples of the second half of the calibration data."""
    model = widen(to_proto(load(opened.plan.prepared)))
    what = watched(model.graph)
    options = SessionOptions(threads=recipe.threads, device=recipe.run_device)
    network = Switched(model, layers, [one.tensor for one in what], options)
    count = opened.calibration.batch_count
    first = count // 2
    step = max(1, (count - first) // SAMPLES)
    batches = islice(opened.calibration.batches(), first, None, step)
    return Bed(network, what, [(b, network.run_with(b, {})) for b in islice(batches, SAMPLES)])


def price_layers(
    opened: Opened,
    stats: Mapping[str, InputStats | None],
    options: Mapping[str, Sequence[Storage]],
    recipe: Recipe,
    progress: Progress,
) -> tuple[Bed, list[Priced]]:
    """Curves and prices of the layers named in `options`, in graph order."""
    layers = [layer for layer in opened.plan.layers if layer.name in options]
    bed, model = open_bed(opened, layers, recipe), load(opened.plan.prepared)
    engine, priced = open_engine(recipe.device, recipe.threads), []
    told = partial(progress, "price")
    for number, layer in enumerate(layers):
        told(number, len(layers))
        weight = to_rows(weight_values(model, layer), layer.layout).astype(np.float64)
        listed = options[layer.name]
        grids = {s.name: s.grid for s in listed if s.grid is not None}
        kind = scale_dtype(layer, recipe, float(np.abs(weight).max()))
        compensate = recipe.compensate and layer.op != "Gather"
        trials = curve(weight, stats[layer.name], grids, (compensate, kind, engine))
        priced.append(_priced(layer, listed, trials, bed))
    told(len(layers), len(layers))
    return bed, priced


def _priced(layer: Layer, listed: Sequence[Storage], trials: Mapping[str, Trial], bed: Bed) -> Priced:
    anchors = {}
    for width in ANCHORS:
        name = next((s.name for s in listed if s.grid and s.width.startswith(width)), None)
        if name:
            anchors[name] = trials[name]
    if not anchors:
        anchors = dict(islice(trials.items(), 1))
    effects = effects_of(bed.network, layer.name, anchors, bed.samples, bed.what)
    price, uncertainty = price_of(effects, anchors)
    candidates = []
    for storage in listed:
        loss = 0.0 if storage.name == "float" else HALF_LOSS
        if storage.grid is not None:
            loss = trials[storage.name].loss
        effect = effect_at(loss, effects, anchors) if loss > 0 else 0.0
        candidates.append(Candidate(storage.name, storage.width, storage.bytes, loss, effect))
    return Priced(layer, trials, tuple(candidates), price, uncertainty)
