"""A run on a Dask cluster: data stay on workers, statistics travel, layers are solved where there is room.

The orders are those of a run in one process, and so are the sums: the samples are cut into shards by their
number alone, and what is known of shards is added in their order. What workers do is in `shards`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from onnx import ModelProto

from comq_onnx import shards
from comq_onnx.backends.engine import cpu_engine
from comq_onnx.cluster import LOCAL, Cluster, check_installed, open_cluster
from comq_onnx.errors import ComqError
from comq_onnx.graph.cut import Segment, cut, every_node, streamed, uncuttable
from comq_onnx.graph.external import external_file, is_external, tensors_of
from comq_onnx.graph.io import load
from comq_onnx.layerwise import Solved
from comq_onnx.planning import Opened, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Solution
from comq_onnx.resume import Journal
from comq_onnx.run.tapped import graph_inputs
from comq_onnx.shards import Ground, shards_of
from comq_onnx.shelf import Shelf
from comq_onnx.stats.collect import notes_on, passes_over
from comq_onnx.stats.mask import mask_input
from comq_onnx.stats.pairs import residuals_of
from comq_onnx.stats.taps import Sampling, Tap, taps_of

FILE_FROM = 1 << 20
"""Bytes of a model from which workers read it from a file, where all see it"""


def solve_on_cluster(
    opened: Opened,
    recipe: Recipe,
    paired: bool,
    progress: Progress = silent,
    kept: tuple[Journal | None, Shelf | None] = (None, None),
) -> Solved:
    """Solve every layer on the workers of ``recipe.dask``, to the same bits as one process does.

    With `paired`, layers are solved on the quantized network's inputs, one segment after the other; otherwise
    on the float network's, all at once, or segment by segment where weights stay in their files. `kept` are
    where solutions are kept.
    """
    check(recipe)
    journal, shelf = kept
    kept = (journal if shelf is None else shelf.journal, shelf)
    with tempfile.TemporaryDirectory(prefix="comq-") as folder, open_cluster(recipe.dask) as cluster:
        run = _Run(opened, recipe, paired, cluster, (Path(folder), *kept))
        return run.all_solved(partial(progress, "solve"))


def check(recipe: Recipe) -> None:
    """ComqError where `recipe` asks for what one process alone can do, or Dask is not installed."""
    wrong = ""
    if recipe.bias in ("position", "block"):
        wrong = f"--bias {recipe.bias}"
    elif recipe.mrecg:
        wrong = "--mrecg"
    elif recipe.budgeted or recipe.max_drop:
        wrong = "a budget"
    if wrong:
        raise ComqError(
            "it looks at all samples at once, which one process has to do",
            where=f"--dask with {wrong}",
            fix="leave one of them out",
        )
    check_installed()


class _Run:
    def __init__(
        self,
        opened: Opened,
        recipe: Recipe,
        paired: bool,
        cluster: Cluster,
        places: tuple[Path, Journal | None, Shelf | None],
    ) -> None:
        self._opened, self._recipe, self._paired, self._cluster = opened, recipe, paired, cluster
        folder, self._journal, self._shelf = places
        plan, self._samples = opened.plan, opened.calibration.samples
        self._mask = mask_input(recipe.mask_input, graph_inputs(plan.prepared), opened.calibration)
        ground = _ground(plan.prepared, plan.layers, _on_worker(recipe), paired, (folder, cluster))
        self._ground = cluster.submit(shards.same, ground)
        self._stream = shards.read(ground).stream
        sampling = Sampling(recipe.seed, self._samples, recipe.shards)
        self._shards = [
            cluster.submit(shards.same, shard)
            for shard in shards_of(opened.calibration, sampling, self._mask)
        ]
        self._held: dict[str, Solution] = {}
        self._drift: dict[str, float] = {}
        self._seen: set[str] = set()

    def all_solved(self, told: Any) -> Solved:
        """Every layer, those that see no activations first."""
        layers = self._opened.plan.layers
        self._told, self._done = told, 0
        told(0, len(layers))
        solutions: dict[str, Any] = {}
        for layer in layers:
            if self._journal and (found := self._journal.get(layer.name)):
                solutions[layer.name] = found[0]
                self._keep(layer, found[0], found[1], again=True)
        blind = [layer for layer in layers if not streamed(layer) and layer.name not in solutions]
        solutions |= self._solve(dict.fromkeys(blind))
        plan = self._opened.plan
        cuttable = not uncuttable(cut(plan.prepared.graph, plan.layers))
        if self._paired or (self._shelf is not None and cuttable):
            self._walk(solutions)
        else:
            self._sweep(solutions)
        notes = notes_on(layers, self._seen, self._mask, self._opened.calibration)
        found = self._shelf if self._shelf is not None else {la.name: self._held[la.name] for la in layers}
        return Solved(found, dict.fromkeys((layer.name for layer in layers), 0.0), notes, self._drift)

    def _sweep(self, solutions: dict[str, Any]) -> None:
        """All layers on the statistics of the whole float model."""
        plan, engine = self._opened.plan, cpu_engine(self._recipe.threads)
        model = load(plan.prepared)
        named = {layer.name: layer for layer in plan.layers}
        for taps in passes_over(model, plan.layers, self._opened.calibration, self._recipe, engine):
            found = [self._submit(shards.swept, shard, taps, self._samples) for shard in self._shards]
            sums: dict[Layer, list[Any]] = {}
            for at, tap in enumerate(taps):
                parts = [self._cluster.submit(shards.pick, one, at) for one in found]
                sums |= {named[name]: parts for name in tap.layers if name not in solutions}
            solutions |= self._solve(sums)

    def _walk(self, solutions: dict[str, Any]) -> None:
        """Segment after segment, as `sequential.March` does."""
        lives = [self._submit(shards.begin, shard) for shard in self._shards]
        types = self._types(lives)
        for at, segment in enumerate(self._stream.segments):
            if len(solutions) == len(self._opened.plan.layers):
                return
            inside = {n.name for n in every_node(segment.nodes)} & solutions.keys() if self._paired else set()
            needed = {name: solutions[name] for name in sorted(inside)}
            lives = [self._submit(shards.advance, live, at, types, needed) for live in lives]
            types = self._types(lives)
            missing = [layer for layer in segment.layers if layer.name not in solutions]
            if missing:
                taps = self._taps(replace(segment, layers=tuple(missing)), lives)
                solutions |= self._solve(self._sums(taps, lives, types, missing))

    def _sums(
        self, taps: Sequence[Tap], lives: Sequence[Any], types: Sequence[Mapping], layers: Sequence[Layer]
    ) -> dict[Layer, list[Any] | None]:
        named = {layer.name: layer for layer in layers}
        found: dict[Layer, list[Any] | None] = {}
        for tap in taps:
            parts = [
                self._submit(shards.summed, live, types, tap, shard, self._samples)
                for live, shard in zip(lives, self._shards, strict=True)
            ]
            found |= {named[name]: parts for name in tap.layers}
        return found

    def _taps(self, segment: Segment, lives: Sequence[Any]) -> list[Tap]:
        """What the layers of a segment read, and which residuals they make up for."""
        if not self._paired:
            return taps_of(segment.layers)
        outline = self._cluster.submit(shards.outline, lives[0])
        live = self._cluster.answers([outline])[0].agreed(self._agreed)
        stream = self._stream.fork(live, 0)
        return taps_of(segment.layers, residuals_of(stream, segment))

    def _types(self, lives: Sequence[Any]) -> list[Mapping]:
        self._agreed = self._cluster.answers([self._cluster.submit(shards.types_of, live) for live in lives])
        return self._agreed

    def _solve(self, sums: Mapping[Layer, list[Any] | None]) -> dict[str, Any]:
        """Solve layers on the sums of all shards; solutions by name, as they lie on workers."""
        promised, drifts = {}, {}
        for layer, parts in sums.items():
            grid = self._opened.plan.grids[layer.name]
            promised[layer] = self._submit(shards.solved, layer, grid, parts or [])
            drifts[layer] = self._cluster.submit(shards.energy, parts or [])
        for layer, solution in self._cluster.as_completed(promised):
            self._keep(layer, solution, self._cluster.answers([drifts[layer]])[0])
        return {layer.name: future for layer, future in promised.items()}

    def _keep(self, layer: Layer, solution: Solution, drift: float | None, again: bool = False) -> None:
        name, known = layer.name, drift if self._paired else None
        if drift is not None or (again and not self._paired and streamed(layer)):
            self._seen.add(name)
        if self._paired and streamed(layer):
            self._drift[name] = drift or 0.0
        if self._journal and not again:
            self._journal.put(name, solution, known, 0.0)
        if self._shelf is not None:
            self._shelf.add(name)
        else:
            self._held[name] = solution
        self._done += 1
        self._told(self._done, len(self._opened.plan.layers))

    def _submit(self, function: Any, *arguments: Any) -> Any:
        return self._cluster.submit(function, self._ground, *arguments)


def _on_worker(recipe: Recipe) -> Recipe:
    """The recipe with the threads that a worker is to use: workers of our own share the cores."""
    if recipe.threads or not recipe.dask.startswith(LOCAL):
        return recipe
    workers = int(recipe.dask.removeprefix(LOCAL))
    return replace(recipe, threads=max(1, cpu_engine().threads // workers))


def _ground(
    prepared: ModelProto,
    layers: Sequence[Layer],
    recipe: Recipe,
    paired: bool,
    how: tuple[Path, Cluster],
) -> Ground:
    """What tasks stand on: the model in a file if all workers see it, or else in a message.

    ComqError where workers do not see the files that its weights stay in.
    """
    folder, cluster = how
    sizes = {}
    for tensor in tensors_of(prepared.graph):
        if is_external(tensor):
            path, _, _ = external_file(tensor, None)
            sizes[str(path)] = path.stat().st_size
    if sizes and not all(cluster.everywhere(shards.all_seen, sizes)):
        raise ComqError(
            f"not all workers see {', '.join(sizes)}, where weights stay",
            where=f"--dask {recipe.dask}",
            fix="put the model, and TMPDIR, on a disk that all machines share",
        )
    message = prepared.SerializeToString()
    digest, path = shards.digest_of(message), folder / "prepared.onnx"
    if len(message) >= FILE_FROM:
        path.write_bytes(message)
        if set(cluster.everywhere(shards.digest_at, str(path))) == {digest}:
            return Ground(digest, path, b"", tuple(layers), recipe, paired)
    return Ground(digest, None, message, tuple(layers), recipe, paired)
