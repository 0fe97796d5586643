"""What will be done, known before any sample is run: layers, grids, reasons, and the data to fit them to."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import onnx

from comq_onnx.errors import ComqError
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import Model, load, stored_in, to_proto
from comq_onnx.graph.outside import ScratchFile
from comq_onnx.graph.prepare import prepare
from comq_onnx.graph.rules import by_rule, governed
from comq_onnx.graph.spill import INLINE_BYTES
from comq_onnx.graph.tensors import FLOAT_DTYPES
from comq_onnx.graph.vocabulary import vocabulary
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Skipped, Smoothed
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.specs import input_specs
from comq_onnx.stats.memory import memory_limit
from comq_onnx.targets import TARGETS
from comq_onnx.targets.placement import NOWHERE, ActivationRules, Placement, place

OTHER_TARGETS = "use --target ort, openvino or tensorrt, which have files of their own, or --activations none"

IN_MEMORY = 8
"""Weights are held in memory up to this part of it"""
HALVED, KEPT_HALF = "stored as float16 by --rule", "kept float16 by --rule"


class Progress(Protocol):
    """Told of each step: `stage` is a verb, `done` of `total` units of it are finished."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """The progress callback of a caller who does not want one."""


@dataclass(frozen=True)
class Plan:
    """What will be quantized and how, known before any sample is run."""

    source: onnx.ModelProto | Path
    prepared: onnx.ModelProto
    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    grids: Mapping[str, Grid]
    notes: Mapping[str, str]
    """Why a layer's grid is not the one asked for, by layer name."""
    opset_before: int
    placement: Placement = NOWHERE
    """Which activations are stored in 8 bits"""
    halved: tuple[Layer, ...] = ()
    """Layers whose weights are stored as float16, and computed in float32; they are none of `layers`"""
    outside: ScratchFile | None = field(default=None, repr=False, compare=False)
    """Where weights are that are not in external files already; None where all are held in memory"""
    smoothed: tuple[Smoothed, ...] = ()
    """Channel scales that were moved from activations into weights; `prepared` has them"""
    unsmoothed: int = 0
    """Inputs of 8-bit products that were looked at and left as they are"""


@dataclass(frozen=True)
class Opened:
    """A plan and the data it will be carried out on."""

    plan: Plan
    calibration: Calibration


def plan(model: str | Path | onnx.ModelProto, recipe: Recipe, given: bool = False) -> Plan:
    """Load, prepare and look: every weight becomes a layer with a grid, or is skipped with its reason.

    `given` is whether there will be calibration data.
    """
    target = TARGETS[recipe.target]
    loaded = load(model)
    before = loaded.opset
    rules = target.activations(recipe, given)
    ready = prepare(loaded, target.required_opset(loaded, recipe), absorb=rules is not None)
    outside = ready.outside = ScratchFile() if too_large(loaded, recipe) else None
    found, skipped = find_layers(ready, recipe)
    found, halved, skipped = set_halves_apart(found, skipped, recipe)
    check_any(found, (skipped, halved), model)
    placement = NOWHERE if rules is None else place(ready, found, rules, recipe.size_first)
    layers, skipped = refuse(found, skipped, recipe, placement)
    if rules is not None and recipe.activations in ("int8", "dynamic"):
        check_placement(placement, layers, rules, recipe)
    check_any(layers, (skipped, halved), model)
    grids, notes = choose_grids(layers, recipe, placement)
    source = model if isinstance(model, onnx.ModelProto) else Path(model)
    kept = tuple(skipped)
    return Plan(
        source, to_proto(ready), tuple(layers), kept, grids, notes, before, placement, tuple(halved), outside
    )


def too_large(model: Model, recipe: Recipe) -> bool:
    """Whether weights that lie in external files are better left there than held in memory.

    They are where they would take more than an eighth of it (copies are made), or than fits in one message.
    """
    total, apart = stored_in(model)
    return apart > 0 and total > min(INLINE_BYTES, memory_limit(recipe.memory_gib) // IN_MEMORY)


def set_halves_apart(
    layers: Sequence[Layer], skipped: Sequence[Skipped], recipe: Recipe
) -> tuple[list[Layer], list[Layer], list[Skipped]]:
    """Layers to quantize, those whose weights a rule stores as float16, and what stays as it is.

    Where all that is not quantized is float16 anyway, and for weights that are no float32, there is no more
    to do: the rule keeps them.
    """
    rules, half = governed(layers, recipe), TARGETS[recipe.target].half(recipe)
    left, halved, kept = [], [], list(skipped)
    for layer in layers:
        if layer.name not in rules or rules[layer.name].width != "float16":
            left.append(layer)
        elif layer.dtype == "float16" or (half and layer.dtype == "float32"):
            kept.append(left_float(layer, KEPT_HALF))
        elif layer.dtype == "float32":
            halved.append(layer)
        else:
            kept.append(left_float(layer, f"only float32 is stored as float16: stays {layer.dtype}"))
    return left, halved, kept


def check_any(
    layers: Sequence[Layer],
    others: tuple[Sequence[Skipped], Sequence[Layer]],
    model: str | Path | onnx.ModelProto,
) -> None:
    """ComqError where no layer is left to quantize; `others` are those kept, and those stored as float16."""
    if layers:
        return
    skipped, halved = others
    reasons = {s.reason for s in skipped} | ({HALVED} if halved else set())
    raise ComqError(
        f"no layer can be quantized: {'; '.join(sorted(reasons)) or 'it has no weight of rank 2 or more'}",
        where=describe(model),
        fix="inspect the model or widen the selection",
    )


def check_placement(
    placement: Placement, layers: Sequence[Layer], rules: ActivationRules, recipe: Recipe
) -> None:
    """ComqError where no layer would compute in 8 bits, or fewer than the target has files for."""
    apart = [layer.name for layer in layers if layer.name not in placement.layers]
    if placement.layers and not (rules.mostly and len(apart) > len(placement.layers)):
        return
    reasons = Counter(placement.reasons[name] for name in apart if name in placement.reasons)
    raise ComqError(
        "activations of too few layers can be stored in 8 bits: "
        + "; ".join(f"{count} layers: {why}" for why, count in reasons.most_common()),
        where=f"--activations {recipe.activations} --target {recipe.target}",
        fix=OTHER_TARGETS
        if rules.mostly
        else "use --activations none, or --size-first to store them all the same",
    )


def refuse(
    layers: Sequence[Layer], skipped: Sequence[Skipped], recipe: Recipe, placement: Placement
) -> tuple[list[Layer], list[Skipped]]:
    """Layers that the target's runtime has a use for; the others are skipped, with the target's reason."""
    target, rules = TARGETS[recipe.target], governed(layers, recipe)
    taken, refused = [], list(skipped)
    for layer in layers:
        held, asked = placement.reasons.get(layer.name, ""), by_rule(recipe, rules.get(layer.name))
        why = "" if layer.name in placement.layers else target.refuses(layer, asked, held)
        if why:
            refused.append(left_float(layer, why))
        else:
            taken.append(layer)
    return taken, refused


def left_float(layer: Layer, why: str) -> Skipped:
    """A layer that stays float after all."""
    shape = layer.layout.shape
    size = math.prod(shape) * FLOAT_DTYPES[layer.dtype].itemsize
    return Skipped(layer.name, layer.op, layer.weight, shape, size, why)


def open_run(
    model: str | Path | onnx.ModelProto, data: Any, recipe: Recipe, progress: Progress = silent
) -> Opened:
    """Plan, and open the calibration data on the inputs of the prepared model."""
    progress("read", 0, 1)
    plan_ = plan(model, recipe, data is not None)
    progress("read", 1, 1)
    return open_data(plan_, data, recipe)


def open_data(plan_: Plan, data: Any, recipe: Recipe) -> Opened:
    """Open the calibration data on the inputs of the prepared model."""
    ready = load(plan_.prepared)
    specs = input_specs(plan_.prepared)
    metadata = {entry.key: entry.value for entry in plan_.prepared.metadata_props}
    return Opened(plan_, open_calibration(data, specs, recipe, vocabulary(ready), metadata))


def regridded(opened: Opened, recipe: Recipe) -> Opened:
    """The same layers and data with the grids of another recipe."""
    grids, notes = choose_grids(opened.plan.layers, recipe, opened.plan.placement)
    return replace(opened, plan=replace(opened.plan, grids=grids, notes=notes))


def ends(layers: Sequence[Layer], recipe: Recipe) -> set[str]:
    """Names of the first and the last layer, embeddings left out, where these are to be int8."""
    inner = [layer.name for layer in layers if layer.op != "Gather"]
    return {inner[0], inner[-1]} if recipe.first_last == "int8" and inner else set()


def choose_grids(
    layers: Sequence[Layer], recipe: Recipe, placement: Placement
) -> tuple[dict[str, Grid], dict[str, str]]:
    """The grid of every layer, and why it is not the one asked for where it is not. Rules by hand win."""
    target, rules = TARGETS[recipe.target], governed(layers, recipe)
    wide = ends(layers, recipe)
    grids: dict[str, Grid] = {}
    notes: dict[str, str] = {}
    for layer in layers:
        rule = rules.get(layer.name)
        bits = 8 if layer.name in wide or layer.op == "Gather" else recipe.bits
        bits = rule.bits if rule and rule.bits else bits
        eight_bit = layer.name in placement.layers
        grids[layer.name], note = target.grid(layer, by_rule(recipe, rule), bits, eight_bit)
        if note:
            notes[layer.name] = note
    return grids, notes


def describe(model: str | Path | onnx.ModelProto) -> str:
    return "the model" if isinstance(model, onnx.ModelProto) else str(model)
