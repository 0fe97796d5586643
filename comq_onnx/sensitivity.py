"""Layers that are spared 8-bit activations, because these would make most of the network's error there.

Each stored value is rounded alone, all else in float, and the error of the network's outputs is measured:
errors of independent roundings add up in squares. In some networks one or two early values make half of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
from onnx import ModelProto

from comq_onnx.activations import choose_values, quantized_floats
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.locate import names_in
from comq_onnx.layerwise import Solved
from comq_onnx.planning import Opened, Plan, Progress, left_float, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import Placed, ValueGrid
from comq_onnx.run.session import SessionOptions, is_float, open_session, outputs_on
from comq_onnx.targets import TARGETS
from comq_onnx.targets.eight_bit import store_activations
from comq_onnx.targets.placement import ActivationRules, Placement, Site, Stored, layers_at, place

BATCHES = 8
SHARE = 0.15
"""Part of the whole squared error from which on a value is worth sparing"""
TWICE = 2.0
"""Times its even share that it makes besides, where values are few"""
MOST, AT_LEAST = 0.06, 2
"""Part of the layers that may be spared, and how many may be where half are left: float costs time"""

Batches = Sequence[Mapping[str, np.ndarray]]
Outputs = Sequence[Mapping[str, np.ndarray]]


def settle(
    opened: Opened, solved: Solved, recipe: Recipe, progress: Progress = silent
) -> tuple[Opened, dict[str, ValueGrid]]:
    """Grids of the values that are stored in 8 bits, and the plan with the layers that are spared it.

    ``--size-first`` spares none.
    """
    grids = choose_values(opened, solved, recipe, progress)
    rules = TARGETS[recipe.target].activations(recipe, not opened.calibration.synthetic)
    if not grids or rules is None or recipe.size_first:
        return opened, grids
    shares = shares_of(opened, solved, grids, partial(progress, "sense"))
    reasons = reasons_of(opened, rules, shares)
    if not reasons:
        return opened, grids
    opened = replace(opened, plan=without(opened.plan, rules, reasons))
    return opened, choose_values(opened, solved, recipe)


def shares_of(
    opened: Opened, solved: Solved, grids: Mapping[str, ValueGrid], on_value: partial[None]
) -> dict[str, float]:
    """What part of the sum of squared errors each stored value makes, by tensor."""
    model, values = quantized_floats(opened, solved), opened.plan.placement.values
    batches = list(islice(opened.calibration.batches(), BATCHES))
    truth = outputs_of(model, batches)
    errors = {}
    for number, value in enumerate(values, 1):
        errors[value.tensor] = squared_error(truth, outputs_of(rounded_alone(model, value, grids), batches))
        on_value(number, len(values))
    total = sum(errors.values())
    return {name: error / total if total > 0 else 0.0 for name, error in errors.items()}


def reasons_of(opened: Opened, rules: ActivationRules, shares: Mapping[str, float]) -> dict[str, str]:
    """Why layers are spared, by name: those of values that make most of the error, as far as they are few."""
    plan = opened.plan
    at = layers_at(load(plan.prepared), plan.layers, rules, plan.placement)
    reasons: dict[str, str] = {}
    layers = len(plan.placement.layers)
    most = min(max(AT_LEAST, int(MOST * layers)), layers // 2)
    least = max(SHARE, TWICE / len(shares))
    for name in sorted(shares, key=lambda tensor: -shares[tensor]):
        touched = [layer for layer in at.get(name, ()) if layer not in reasons]
        if shares[name] < least or len(reasons) + len(touched) > most:
            continue
        reasons |= dict.fromkeys(touched, f"8 bits there make {shares[name]:.0%} of the error")
    return reasons


def without(plan: Plan, rules: ActivationRules, reasons: Mapping[str, str]) -> Plan:
    """The plan with these layers in float activations; and weights, where the target has no form for that."""

    def refuses(site: Site) -> str:
        return reasons.get(site.layer.name, "") or rules.refuses(site)

    model = load(plan.prepared)
    placement = place(model, plan.layers, replace(rules, refuses=refuses), size_first=False)
    if rules.spares:
        return replace(plan, placement=placement)
    layers = tuple(layer for layer in plan.layers if layer.name not in reasons)
    kept = (left_float(layer, reasons[layer.name]) for layer in plan.layers if layer.name in reasons)
    return replace(plan, placement=placement, layers=layers, skipped=(*plan.skipped, *kept))


def rounded_alone(model: ModelProto, value: Placed, grids: Mapping[str, ValueGrid]) -> ModelProto:
    """The model with one value stored in 8 bits."""
    copy = load(model)
    store_activations(copy, Stored(Placement((value,)), grids), False, names_in(copy))
    return to_proto(copy)


def outputs_of(model: ModelProto, batches: Batches) -> Outputs:
    """Without optimisation: it would round the weights beside an 8-bit input too."""
    return outputs_on(open_session(model, SessionOptions(optimize=False)), batches)


def squared_error(truth: Outputs, found: Outputs) -> float:
    """Of all floating outputs, each relative to its own energy, where it is finite."""
    total = 0.0
    for key in truth[0] if truth else ():
        if not is_float(truth[0][key].dtype):
            continue
        pairs = [(np.float64(a[key]), np.float64(b[key])) for a, b in zip(truth, found, strict=True)]
        with np.errstate(over="ignore", invalid="ignore"):  # seen to below
            signal = sum(float(np.square(a).sum()) for a, _ in pairs)
            noise = sum(float(np.square(a - b).sum()) for a, b in pairs if a.shape == b.shape)
        total += noise / signal if signal > 0 and math.isfinite(noise) else 0.0
    return total
