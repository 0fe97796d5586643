"""Two neighbouring layers solved together: the first again in the metric of the second, then that one.

Mixed reconstruction granularity (MRECG, arXiv 2303.11906) without backpropagation: alternating closed steps
instead of gradients. What is kept has the smaller error at the output of the two, run in onnxruntime.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from comq_onnx.graph.adjacent import Pair
from comq_onnx.graph.io import Model
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.grid import Grid, dequantize
from comq_onnx.layerwise import scale_dtype
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer, Problem, Solution
from comq_onnx.run.stream import Stream
from comq_onnx.solve.two_sided import metric_of, resettled
from comq_onnx.stats.between import input_rows, module_error, slopes
from comq_onnx.stats.taps import Sampling

ROUNDS = 2
"""Steps for the first layer and then the second, at most."""

Solutions = dict[str, Solution]


@dataclass(frozen=True)
class Site:
    """A pair in the middle of a walk: where it is, and how its layers are looked at and solved."""

    stream: Stream
    pair: Pair
    first: Layer
    second: Layer
    model: Model
    grids: Mapping[str, Grid]
    masks: Sequence[np.ndarray]
    sampling: Sampling
    collect: Callable[[Layer], tuple[InputStats | None, float]]
    """What a layer sees now, and the energy of its drift"""
    solve: Callable[[Layer, InputStats | None], Solution]
    recipe: Recipe


@dataclass(frozen=True)
class Joined:
    """What came of a pair."""

    pair: Pair
    solutions: Solutions
    """Of both layers, better than those before; empty where nothing was"""
    before: float
    after: float
    """``E ||y - y'||^2 / E ||y||^2`` at the output of the second layer, before and after the best round"""
    drift: float = 0.0
    """Energy of the drift of the second layer's input, where `solutions` are kept"""

    @property
    def note(self) -> str:
        """A line for the summary."""
        verdict = "kept" if self.solutions else "not kept"
        names = f"{self.pair.first} and {self.pair.second}"
        return f"joint re-solve of {names}: module error {self.before:.4g} -> {self.after:.4g}, {verdict}"


def join(site: Site, solutions: Mapping[str, Solution]) -> Joined:
    """Solve a pair together. The stream is left with what is better: the pair as it was, or as it is then.

    Both layers must be solved, and the inputs of both live.
    """
    before = module_error(site.stream, site.second, site.masks)
    best = Joined(site.pair, {}, before, before)
    now: Solutions = {name: solutions[name] for name in (site.pair.first, site.pair.second)}
    slope = slopes(site.stream, site.pair, site.first, site.second)
    stats, _ = site.collect(site.first)
    if slope is None or stats is None:
        return best
    grouped = site.first.layout.groups > 1
    rows = input_rows(site.stream, site.first, site.sampling) if grouped else None
    for _ in range(ROUNDS):
        first = _first(site, now, slope, (stats, rows))
        if np.array_equal(first.codes, now[site.pair.first].codes):
            break
        trial, energy = _tried(site, first)
        after = module_error(site.stream, site.second, site.masks)
        if after >= (best.after if best.solutions else before):
            _undo(site, now)
            return best if best.solutions else replace(best, after=after)
        site.stream.settle(site.second.input, keep=True)
        now, best = trial, Joined(site.pair, trial, before, after, energy)
    return best


def _first(
    site: Site, now: Solutions, slope: np.ndarray, seen: tuple[InputStats, np.ndarray | None]
) -> Solution:
    """The first layer in the metric of the second as that is now."""
    (stats, rows), reader, layer = seen, now[site.pair.second], site.first
    read = dequantize(reader.codes, reader.scale, reader.zero_point, reader.grid)
    metric = metric_of(read, site.second.layout, slope)
    weight = to_rows(weight_values(site.model, layer), layer.layout)
    dtype = scale_dtype(layer, site.recipe, np.abs(weight).max())
    problem = Problem(weight, stats, site.grids[layer.name], dtype)
    return resettled(problem, now[layer.name], metric, rows, site.recipe.compensate)


def _tried(site: Site, first: Solution) -> tuple[Solutions, float]:
    """The second layer on what the first makes now; both are in the stream, the input before is put aside."""
    stream, (a, b) = site.stream, (site.first, site.second)
    stream.quantize(a.name, first)
    nodes = (*stream.nodes_of(a), *site.pair.nodes)
    made = stream.outputs(nodes, a.input, [b.input], "quantized")
    stream.replace(b.input, (value for (value,) in made))
    stats, energy = site.collect(b)
    second = site.solve(b, stats)
    stream.quantize(b.name, second)
    return {a.name: first, b.name: second}, energy


def _undo(site: Site, now: Solutions) -> None:
    """The stream as it was before `_tried`."""
    site.stream.settle(site.second.input, keep=False)
    for name, solution in now.items():
        site.stream.quantize(name, solution)
