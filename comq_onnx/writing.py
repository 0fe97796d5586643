"""A model with its solutions in it: what the target writes, what was said of it, and where it comes from."""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import onnx

from comq_onnx.evaluate.report import halved_lines, layer_lines, skipped_line, with_activations
from comq_onnx.evaluate.spread import Spread, worst_spreads
from comq_onnx.graph.edit import add_block_bias
from comq_onnx.graph.half import to_half
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.locate import names_in
from comq_onnx.graph.share import share_equal_weights
from comq_onnx.layerwise import Solved
from comq_onnx.planning import Opened
from comq_onnx.recipe import Recipe
from comq_onnx.records import LayerReport, Solution, TwinGrid, ValueGrid
from comq_onnx.run.data import Calibration
from comq_onnx.stats.extremes import extremes
from comq_onnx.targets import TARGETS
from comq_onnx.targets.halved import store_halved
from comq_onnx.targets.placement import Stored
from comq_onnx.twins import twin_notes
from comq_onnx.version import __version__


@dataclass(frozen=True)
class Outcome:
    """A quantized model in memory, the solutions it holds, and a line for each of its weights."""

    model: onnx.ModelProto
    solutions: Mapping[str, Solution]
    lines: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    """What the user must hear of the graph around the weights"""
    grids: Mapping[str, ValueGrid] = field(default_factory=dict)
    """Of activations stored in 8 bits, by tensor"""
    spreads: tuple[Spread, ...] = ()
    """Of the layers of the lowest SQNR, worst first"""


@dataclass(frozen=True)
class Made:
    """A run as it was planned, its recipe, and what came of it."""

    opened: Opened
    recipe: Recipe
    solved: Solved
    outcome: Outcome


def write(
    opened: Opened,
    solved: Solved,
    recipe: Recipe,
    grids: Mapping[str, ValueGrid] | None = None,
    twins: Mapping[str, TwinGrid] | None = None,
) -> Outcome:
    """Put the solutions into a copy of the prepared graph; the codes are not rounded again.

    `grids` are those of activations stored in 8 bits, by tensor; `twins` those that take their place.
    """
    plan_ = opened.plan
    model = load(plan_.prepared)
    model.outside = plan_.outside
    target = TARGETS[recipe.target]
    stored = Stored(plan_.placement, grids or {}, twins or {})
    written = target.rewrite(model, plan_.layers, solved.solutions, recipe, stored)
    halved = store_halved(model, plan_.halved, target, recipe)
    changed = {w.layer: w.solution for w in written if w.solution is not None}
    # Not one dict: those that lie on disk are read one at a time.
    solutions: Mapping[str, Solution] = ChainMap(changed, cast(dict[str, Solution], solved.solutions))
    share_equal_weights(model)
    taken = names_in(model) if solved.blocks else set()
    for block in solved.blocks:
        add_block_bias(model, block, taken)
    lines = layer_lines(plan_.layers, solutions, written, plan_.notes, solved.seconds, solved.drift)
    spreads = worst_spreads(plan_.prepared, plan_.layers, solutions, lines)
    lines = with_activations(lines, plan_.placement)
    lines += halved_lines(plan_.halved, halved)
    lines += tuple(skipped_line(s) for s in plan_.skipped)
    proto, said = to_proto(model), twin_notes(opened, recipe, twins or {})
    if target.half(recipe):
        halved = to_half(proto, extremes(proto, opened.calibration.batches(), recipe.run_device))
        proto, said = halved.proto, (*said, *halved.notes())
    made = stamp(proto, opened.calibration, recipe)
    return Outcome(made, solutions, lines, said, grids or {}, spreads)


def stamp(model: onnx.ModelProto, calibration: Calibration, recipe: Recipe) -> onnx.ModelProto:
    """Write how the model was made into its metadata. No paths: files travel."""
    kind = "synthetic" if calibration.synthetic else "given"
    entries = {
        "comq.version": __version__,
        "comq.recipe": recipe.as_json(),
        "comq.calibration": f"{kind}, {calibration.samples} samples",
    }
    kept = [p for p in model.metadata_props if p.key not in entries]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return model
