"""Layer after layer, each on the inputs that the network quantized so far makes, aimed at the float output.

The graph is cut at the inputs of its layers (`graph.cut`) and two networks are moved along side by side
(`run.stream`), so that every node runs twice per batch, once in each, however deep the model is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from onnx import ModelProto

from comq_onnx.allocate.modcap import differing, modcap
from comq_onnx.backends.engine import open_engine
from comq_onnx.compensation import BlockBiases, PositionBiases
from comq_onnx.errors import NotFiniteError
from comq_onnx.evaluate.estimate import Steps, steps_of, store_limit
from comq_onnx.graph.adjacent import Pair, adjacent
from comq_onnx.graph.cut import Segment, streamed
from comq_onnx.graph.io import load, to_proto
from comq_onnx.joint import Site, join
from comq_onnx.layerwise import Solved, solve, solve_layers
from comq_onnx.meter import Meter
from comq_onnx.planning import Opened, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer, Solution
from comq_onnx.resume import Journal
from comq_onnx.run.session import SessionOptions
from comq_onnx.run.stream import Stream
from comq_onnx.run.tapped import fixed_shapes, graph_inputs
from comq_onnx.run.widen import widen
from comq_onnx.shelf import Shelf
from comq_onnx.stats.collect import notes_on
from comq_onnx.stats.mask import mask_input
from comq_onnx.stats.memory import memory_limit
from comq_onnx.stats.pairs import collect_pairs, residuals_of
from comq_onnx.stats.taps import Sampling


def march(
    opened: Opened,
    recipe: Recipe,
    progress: Progress = silent,
    correct: bool = True,
    journal: Journal | None = None,
    shelf: Shelf | None = None,
    paired: bool = True,
) -> Solved:
    """Solve every layer on the quantized network's inputs.

    With `correct` off the float network's inputs are not looked at: codes are solved for the float weights.
    Layers that `journal` holds are not solved again, nor is what they see summed; it is given the others.
    Solutions are held in memory unless there is a `shelf`, whose journal is written then.

    Without `paired`, layers are solved on the float network's inputs, and that network alone is run: as
    `parallel` does, but with one segment's weights and statistics in memory at a time.
    """
    kept = Kept(journal if shelf is None else shelf.journal, shelf)
    return March(opened, recipe, progress, Mode(correct, paired), kept).run()


@dataclass(frozen=True)
class Mode:
    """Which networks are walked through; see `march`."""

    correct: bool = True
    paired: bool = True


@dataclass(frozen=True)
class Kept:
    """Where solved layers are kept besides, or instead of memory."""

    journal: Journal | None = None
    shelf: Shelf | None = None


MODE, NOT_KEPT = Mode(), Kept()


class March:
    """One walk through the model: what is known so far, and the steps it is made of."""

    def __init__(
        self, opened: Opened, recipe: Recipe, progress: Progress, mode: Mode = MODE, kept: Kept = NOT_KEPT
    ) -> None:
        self._plan, self._calibration = opened.plan, opened.calibration
        self._recipe, self._told, self._mode = recipe, partial(progress, "solve"), mode
        self._journal, self._shelf = kept.journal, kept.shelf
        self._model, self._engine = load(opened.plan.prepared), open_engine(recipe.device, recipe.threads)
        self._named = {layer.name: layer for layer in opened.plan.layers}
        self._grids = opened.plan.grids
        wide = widen(to_proto(self._model), opened.plan.outside)
        self._sampling = Sampling(recipe.seed, self._calibration.samples, recipe.shards)
        self._mask = mask_input(recipe.mask_input, graph_inputs(wide), self._calibration)
        self._limit = memory_limit(recipe.memory_gib)
        options = SessionOptions(threads=self._engine.threads, device=recipe.run_device)
        self._blocks = BlockBiases(
            wide.graph, opened.plan.layers if recipe.bias == "block" else (), kept.journal
        )
        self._joint: list[str] = []
        self._pairs = self._chosen(wide)
        held = {b: [self._named[p.first].input for p in pairs] for b, pairs in self._pairs.items()}
        limit, stops = self._limit // 2, self._blocks.stops
        layers, paired = opened.plan.layers, mode.paired
        if kept.shelf is not None:
            limit = store_limit(opened.plan.prepared, layers, self._calibration, recipe, paired)
        self._stream = Stream(wide, layers, self._calibration, options, limit, stops, held, paired)
        self._positions = PositionBiases(self._stream, bool(self._mask), fixed_shapes(wide))
        self._held: dict[str, Solution] = {}
        self._seconds: dict[str, float] = {}
        self._drift: dict[str, float] = {}
        self._seen: set[str] = set()

    @property
    def _solutions(self) -> Mapping[str, Solution]:
        """Those there are, by layer."""
        return self._held if self._shelf is None else self._shelf

    def _hold(self, name: str, solution: Solution) -> None:
        """Have a solution, which the journal of a shelf holds already."""
        if self._shelf is None:
            self._held[name] = solution
        else:
            self._shelf.add(name)
            if self._mode.paired:
                self._stream.shelve(name, self._shelf)

    def _keep(self, name: str, solution: Solution) -> None:
        """Have a solution, and let the journal have it first."""
        if self._journal:
            drift = self._drift.get(name) if name in self._seen else None
            self._journal.put(name, solution, drift, self._seconds[name])
        self._hold(name, solution)

    def run(self) -> Solved:
        """All layers in order; those that see no activations come first."""
        layers = self._plan.layers
        self._take()
        self._work = self._estimate()
        self._meter = Meter(self._told, self._work.total)
        blind = [layer for layer in layers if not streamed(layer)]
        self._solve(blind, dict.fromkeys(layer.name for layer in blind))
        masks = self._masks()
        for segment, forward in zip(self._stream.segments, self._work.forward, strict=True):
            if len(self._solutions) == len(layers) and self._blocks.done:
                break
            self._stream.run(segment, on_batch=partial(self._meter.add, forward / self._stream.batches))
            for tensor in segment.stops:
                self._blocks.level(self._stream, tensor, masks)
            if missing := self._missing(segment.layers):
                part = replace(segment, layers=tuple(missing))
                self._solve(missing, self._statistics(part, masks), residuals_of(self._stream, part))
                self._join(segment, masks)
            self._stream.free(segment.frees)
        self._meter.finish()
        ordered = (
            {layer.name: self._held[layer.name] for layer in layers} if self._shelf is None else self._shelf
        )
        notes = notes_on(layers, self._seen, self._mask, self._calibration)
        said = {"position": self._positions.notes, "block": self._blocks.notes}
        notes = (*notes, *said.get(self._recipe.bias, tuple)(), *self._joint)
        stream, added = self._stream, self._blocks.added
        return Solved(ordered, self._seconds, notes, self._drift, stream.passes, stream.store.spilled, added)

    def _masks(self) -> list[np.ndarray]:
        """The mask of each batch; nothing where no input is one."""
        batches = self._calibration.batches() if self._mask else ()
        return [np.asarray(batch[self._mask]) != 0 for batch in batches]

    def _take(self) -> None:
        """Layers that an earlier run has solved: the quantized network computes with them from the start."""
        for layer in self._plan.layers:
            if self._journal and (found := self._journal.get(layer.name)):
                solution, drift, self._seconds[layer.name] = found
                self._hold(layer.name, solution)
                if self._shelf is None and self._mode.paired:
                    self._stream.quantize(layer.name, solution)
                self._positions.take(layer, solution)
                if not streamed(layer):
                    continue
                if self._mode.paired:
                    self._drift[layer.name] = drift or 0.0
                if drift is not None or not self._mode.paired:
                    self._seen.add(layer.name)

    def _missing(self, layers: Sequence[Layer]) -> list[Layer]:
        return [layer for layer in layers if layer.name not in self._solutions]

    def _estimate(self) -> Steps:
        layers = self._plan.layers
        missing = self._missing(layers)
        return steps_of(self._plan.prepared, layers, missing, self._grids, self._calibration, self._recipe)

    def _statistics(self, segment: Segment, masks: list[np.ndarray]) -> dict[str, InputStats | None]:
        """What the layers of a segment see, by layer."""
        found = self._look(segment, masks)
        self._meter.add(sum(self._work.statistics[layer.name] for layer in segment.layers))
        self._seen |= {name for name, (stats, _) in found.items() if stats}
        if self._mode.paired:
            self._drift |= {name: energy for name, (_, energy) in found.items()}
        return {name: stats for name, (stats, _) in found.items()}

    def _look(self, segment: Segment, masks: list[np.ndarray]) -> dict[str, tuple[InputStats | None, float]]:
        """What layers see, as they are to be solved on it, and the energy of its drift."""
        how = (self._engine, self._limit // 2)
        try:
            found = collect_pairs(self._stream, segment, self._sampling, masks, how)
        except NotFiniteError as error:
            raise self._located(error) from error
        energy = {name: s.drift.energy if s and s.drift else 0.0 for name, s in found.items()}
        kept = found if self._mode.correct else {name: s and _without_drift(s) for name, s in found.items()}
        return {name: (stats, energy[name]) for name, stats in kept.items()}

    def _located(self, error: NotFiniteError) -> NotFiniteError:
        """The same error with the node that NaN or infinity comes from."""
        first = 0
        for batch in self._calibration.batches():
            first += self._calibration.entries(batch)
            if first > error.sample:
                found = self._stream.origin(error.tensor, batch)
                return error if found is None else error.located(found[0], found[1].name, found[1].op_type)
        return error

    def _chosen(self, model: ModelProto) -> dict[str, list[Pair]]:
        """The pairs of layers to be solved together, by the second of them."""
        if not self._recipe.mrecg:
            return {}
        layers = self._plan.layers
        chosen = differing(adjacent(model.graph, layers), modcap(layers, self._grids), self._recipe.mrecg)
        if len(chosen) < self._recipe.mrecg:
            self._joint.append(
                f"--mrecg {self._recipe.mrecg}: {len(chosen)} pairs of layers can be solved together"
            )
        return {pair.second: [other for other in chosen if other.second == pair.second] for pair in chosen}

    def _join(self, segment: Segment, masks: list[np.ndarray]) -> None:
        """Solve the pairs that end in a segment's layers, which are solved, together."""

        def collect(layer: Layer) -> tuple[InputStats | None, float]:
            return self._look(replace(segment, layers=(layer,)), masks)[layer.name]

        def solved(layer: Layer, stats: InputStats | None) -> Solution:
            how = (self._recipe, self._engine)
            return solve(self._model, layer, stats, self._grids[layer.name], how)

        for pair in (pair for layer in segment.layers for pair in self._pairs.get(layer.name, ())):
            first, second = self._named[pair.first], self._named[pair.second]
            site = Site(
                self._stream,
                pair,
                first,
                second,
                self._model,
                self._grids,
                masks,
                self._sampling,
                collect,
                solved,
                self._recipe,
            )
            joined = join(site, self._solutions)
            if joined.solutions:
                self._drift[second.name] = joined.drift
            for name, solution in joined.solutions.items():
                self._keep(name, solution)
            self._joint.append(joined.note)

    def _solve(
        self,
        layers: Sequence[Layer],
        stats: Mapping[str, InputStats | None],
        residuals: Mapping[str, str] | None = None,
    ) -> None:
        """Solve layers, added to `residuals` by name, and let the quantized network compute with them."""
        named = {layer.name: layer for layer in layers}

        def keep(name: str, solution: Solution, spent: float) -> None:
            if self._mode.paired:
                self._stream.quantize(name, solution)
            if self._recipe.bias == "position":
                residual = (residuals or {}).get(name, "") if self._mode.correct else ""
                solution = self._positions.improve(named[name], solution, residual)
                self._stream.quantize(name, solution)
            self._seconds[name] = spent
            self._keep(name, solution)
            self._meter.add(self._work.solve[name])

        solve_layers(self._model, layers, stats, self._grids, (self._recipe, self._engine), keep)
        self._positions.forget()


def _without_drift(stats: InputStats) -> InputStats:
    return replace(stats, half=stats.half and replace(stats.half, drift=None), drift=None)
