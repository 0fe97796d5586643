"""Measure what each layer's storages cost the network: curves, then dual prices, on the float network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from onnx import ModelProto

from comq_onnx.allocate.allocation import Candidate, Point
from comq_onnx.allocate.curves import Bench, Curve, curve
from comq_onnx.allocate.distortion import Truth, Watched, divergence, truth_of, watched
from comq_onnx.allocate.prices import SMALLEST, Effects, effect_at, effects_of, price_of
from comq_onnx.allocate.storage import Storage
from comq_onnx.backends.engine import cpu_engine, on_threads, open_engine, single_threaded_blas
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.layerwise import scale_dtype
from comq_onnx.planning import Opened, Progress
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer
from comq_onnx.run.data import Batch
from comq_onnx.run.onward import Onward, Spread
from comq_onnx.run.session import SessionOptions, open_session
from comq_onnx.run.sides import sided
from comq_onnx.run.switched import Switched
from comq_onnx.run.widen import widen, widened

SAMPLES = 3
"""Batches that prices are measured on, evenly from the second half of the calibration data"""
OF_NETWORKS = 16
"""Batches that whole networks are measured on, those of prices among them"""
HALF_LOSS = 2.0**-24
"""Squared relative error of a weight in float16, and so about that of its layer's output"""
ANCHORS = ("int4", "int2")
"""Widths that are measured in the network; the others are told from their losses"""
SMALL = 0.25
"""Of the mean layer's weights: layers below it are measured on the first anchor alone. What they are stored
as changes the file little, and in many networks they come first, so that most of it is run for each."""


@dataclass(frozen=True)
class Priced:
    """A layer whose storage is to be chosen."""

    layer: Layer
    curve: Curve
    candidates: tuple[Candidate, ...]
    price: float
    uncertainty: float

    def candidate(self, name: str) -> Candidate:
        return next(one for one in self.candidates if one.name == name)


@dataclass(frozen=True)
class Bed:
    """The float network with weights that can be switched, and its answers."""

    network: Switched
    spread: Spread
    """How samples are shared out"""
    what: Sequence[Watched]
    samples: Sequence[tuple[Batch, Truth]]

    @property
    def every(self) -> int:
        """Prices are measured on one of so many samples."""
        return -(-len(self.samples) // SAMPLES)

    def point(self, kind: str, size: int, chosen: Sequence[tuple[Priced, str]]) -> Point:
        """Layers on the storages of these names, all at once, measured.

        Each makes the error of its nearest anchor, scaled to the loss of the storage.
        """
        solutions, strength = {}, {}
        for one, name in chosen:
            wanted = one.candidate(name).loss
            near, solution = min(
                one.curve.anchors.items(),
                key=lambda item: abs(_log(one.curve.losses[item[0]]) - _log(wanted)),
            )
            solutions[one.layer.name] = solution
            strength[one.layer.name] = float(np.sqrt(wanted / max(one.curve.losses[near], SMALLEST)))
        fed = self.network.switch(solutions, strength)
        apart = list(
            self.spread(lambda s: divergence(s[1], self.network.run_with(s[0], fed), self.what), self.samples)
        )
        return Point(kind, size, float(np.mean(apart)) if apart else 0.0)


def _log(loss: float) -> float:
    return float(np.log(max(loss, SMALLEST)))


def with_unlike_halves(opened: Opened, recipe: Recipe) -> Opened:
    """The same run on the same samples, in an order whose halves the float network answers unlike."""
    if opened.calibration.synthetic:
        return opened
    model = widen(to_proto(load(opened.plan.prepared)))
    session = open_session(model, SessionOptions(threads=recipe.threads, device=recipe.run_device))

    def run(batch: Batch) -> Batch:
        return session.run({name: widened(value) for name, value in batch.items()})

    return replace(opened, calibration=sided(opened.calibration, run))


def sample_by_sample(recipe: Recipe) -> tuple[SessionOptions, Spread]:
    """How a session is opened and its samples are run: on a CPU a thread to each, which is less to wait for
    than many threads to one."""
    options = SessionOptions(threads=recipe.threads, device=recipe.run_device)
    if recipe.run_device != "cpu":
        return options, map
    return replace(options, threads=1), cpu_engine(recipe.threads).map


def open_bed(opened: Opened, layers: Sequence[Layer], recipe: Recipe) -> tuple[Bed, Onward]:
    """The float network's answers on samples of the second half of the calibration data; and the samples at
    its beginning, for layers to be changed one by one."""
    model = widen(to_proto(load(opened.plan.prepared)))
    what = watched(model.graph)
    told = [one.tensor for one in what]
    count = opened.calibration.batch_count
    first = count // 2
    step = max(1, (count - first) // OF_NETWORKS)
    chosen = islice(opened.calibration.batches(), first, None, step)
    batches = [{name: widened(value) for name, value in b.items()} for b in islice(chosen, OF_NETWORKS)]
    how = sample_by_sample(recipe)
    switched = ModelProto()
    switched.CopyFrom(model)
    network = Switched(switched, layers, told, how[0])
    truths = how[1](lambda batch: truth_of(network.run_with(batch, {}), what), batches)
    bed = Bed(network, how[1], what, list(zip(batches, truths, strict=True)))
    return bed, Onward(model, layers, told, batches[:: bed.every], how)


def price_layers(
    opened: Opened,
    stats: Mapping[str, InputStats | None],
    options: Mapping[str, Sequence[Storage]],
    recipe: Recipe,
    progress: Progress,
) -> tuple[Bed, list[Priced]]:
    """Curves and prices of the layers named in `options`, in graph order."""
    layers = [layer for layer in opened.plan.layers if layer.name in options]
    (bed, onward), model = open_bed(opened, layers, recipe), load(opened.plan.prepared)
    engine, priced = open_engine(recipe.device, recipe.threads), []
    mine = replace(engine, threads=1)
    told = partial(progress, "price")
    truths = [truth for _, truth in bed.samples[:: bed.every]]

    def curve_of(layer: Layer) -> Curve:
        weight = to_rows(weight_values(model, layer), layer.layout).astype(np.float64)
        grids = {s.name: s.grid for s in options[layer.name] if s.grid is not None}
        kind = scale_dtype(layer, recipe, float(np.abs(weight).max()))
        compensate = recipe.compensate and layer.op != "Gather"
        bench = Bench(weight, stats[layer.name], compensate, kind, mine)
        return curve(bench, grids, _anchors(options[layer.name]))

    # Curves are found while the network is run with the layers before: each alone leaves cores idle.
    alone = recipe.device.startswith("cuda")
    least = SMALL * np.mean([np.prod(layer.layout.shape) for layer in layers])
    with single_threaded_blas():
        curves = map(curve_of, layers) if alone else on_threads(engine.threads, curve_of, layers)
        for number, (layer, found) in enumerate(zip(layers, curves, strict=True)):
            told(number, len(layers))
            tried = dict(islice(found.anchors.items(), 1 if np.prod(layer.layout.shape) < least else None))
            effects = effects_of(onward, layer, tried, truths, bed.what)
            priced.append(_priced(layer, options[layer.name], found, effects))
    told(len(layers), len(layers))
    return bed, priced


def _anchors(listed: Sequence[Storage]) -> list[str]:
    """Names of the storages that are measured in the network."""
    grids = [(s.name, s.width) for s in listed if s.grid]
    found = [next((name for name, own in grids if own.startswith(width)), "") for width in ANCHORS]
    return list(filter(None, found)) or [grids[0][0]]


def _priced(layer: Layer, listed: Sequence[Storage], found: Curve, effects: Effects) -> Priced:
    price, uncertainty = price_of(effects, found.losses)
    candidates = []
    for storage in listed:
        loss = 0.0 if storage.name == "float" else HALF_LOSS
        if storage.grid is not None:
            loss = found.losses[storage.name]
        effect = effect_at(loss, effects, found.losses) if loss > 0 else 0.0
        candidates.append(Candidate(storage.name, storage.width, storage.bytes, loss, effect))
    return Priced(layer, found, tuple(candidates), price, uncertainty)
