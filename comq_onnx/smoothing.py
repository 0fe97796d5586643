"""Activations whose channels differ in size, made easier to round in 8 bits before anything is solved.

For each tensor that products read in 8 bits, scales of its channels are chosen by the error they leave at the
products' outputs (`stats.channel_scales`), and moved into the weights (`graph.smooth`). Where nothing absorbs
the division it is a Mul on every call, which is not done for a small gain.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from comq_onnx.graph.io import Model, load, to_proto
from comq_onnx.graph.layout import weight_values
from comq_onnx.graph.locate import names_in
from comq_onnx.graph.smooth import absorbs, smooth
from comq_onnx.planning import Opened, Plan, Progress, silent
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Smoothed
from comq_onnx.stats.channel_scales import Reader, choose_scales
from comq_onnx.stats.values import watch_rows
from comq_onnx.targets import TARGETS
from comq_onnx.targets.placement import ActivationRules, place

SOLVED = 0.25
"""Part of rounding's error that weights have once they are solved: of 8-bit weights, a fifth in MiniLM"""
WORTH, WORTH_A_MUL = 1.5, 3.0
"""How many times smaller the error must get, where constants absorb the scales, and where a Mul divides"""
HALF_MAX = 2.0**15
"""Of float16, to be on the safe side"""
MATRIX = 2
DONE = (
    "channel scales were moved into the weights for {count} of {total} inputs of 8-bit products{muls}; "
    "the expected error at the outputs is divided by {least:.1f} to {most:.1f} there."
)
"""Told of a run"""
MULS = " ({count} by a Mul of their own)"
NONE = "of {total} inputs of 8-bit products none gains enough by channel scales moved into the weights."


def smoothed_run(opened: Opened, recipe: Recipe, progress: Progress = silent) -> Opened:
    """The run with channel scales moved out of its 8-bit activations, where that pays; `opened` elsewhere."""
    plan_, rules = opened.plan, rules_of(opened, recipe)
    if rules is None or opened.calibration.synthetic:
        return opened
    model = load(plan_.prepared)
    wanted = products_by_input(plan_)
    if not wanted:
        return opened
    told = partial(progress, "smooth")
    rows = watch_rows(
        plan_.prepared, [layers[0] for layers in wanted.values()], opened.calibration, recipe, told
    )
    found = []
    for layers in wanted.values():
        if layers[0].name in rows:
            one = chosen(model, layers, rows[layers[0].name][0], (plan_, rules, recipe))
            found += [one] if one is not None else []
    return replace(opened, plan=with_scales(plan_, found, rules, recipe))


def resmoothed(plan_: Plan, like: Opened, recipe: Recipe) -> Plan:
    """Another plan of the model that `like` is of, with the channel scales that were chosen there."""
    rules = rules_of(like, recipe)
    return plan_ if rules is None else with_scales(plan_, like.plan.smoothed, rules, recipe)


def rules_of(opened: Opened, recipe: Recipe) -> ActivationRules | None:
    return TARGETS[recipe.target].activations(recipe, not opened.calibration.synthetic)


def products_by_input(plan_: Plan) -> dict[str, list[Layer]]:
    """The products that compute in 8 bits, by the tensor they read, where other readers see that in float.

    A tensor that everything reads in 8 bits comes out of an 8-bit kernel: a Mul would have to stand between.
    """
    whole = {value.tensor for value in plan_.placement.values if value.readers is None}
    found: dict[str, list[Layer]] = {}
    for layer in plan_.layers:
        matrix = layer.layout.kind == "matmul" and len(layer.layout.shape) == MATRIX
        if matrix and layer.name in plan_.placement.layers and layer.input not in whole:
            found.setdefault(layer.input, []).append(layer)
    return found


def chosen(
    model: Model, layers: Sequence[Layer], rows: np.ndarray, how: tuple[Plan, ActivationRules, Recipe]
) -> Smoothed | None:
    """The scales of one tensor's channels, where they are worth it."""
    plan_, rules, recipe = how
    weights = [weight_values(model, layer).astype(np.float32) for layer in layers]
    if not all(np.isfinite(weight).all() for weight in weights):
        return None  # which is told where the layer is solved
    readers = [Reader(weight, plan_.grids[layer.name]) for weight, layer in zip(weights, layers, strict=True)]
    share = 1.0 if recipe.solver == "rtn" else SOLVED
    clip = rules.stored and recipe.calibration_method != "minmax"
    found = choose_scales(rows, readers, rules.kind, share, clip)
    if found is None:
        return None
    scale, gain = found.scale, found.before / found.after if found.after > 0 else np.inf
    if layers[0].dtype != "float32":
        scale = np.exp2(np.rint(np.log2(scale)))  # of which a product is exact in few bits
        largest = max(np.abs(rows / scale).max(), *(np.abs(w * scale[:, None]).max() for w in weights))
        if largest > HALF_MAX:
            return None
    if gain < (WORTH if absorbs(model, layers) else WORTH_A_MUL):
        return None
    return Smoothed(layers[0].input, scale, float(gain))


def with_scales(plan_: Plan, found: Sequence[Smoothed], rules: ActivationRules, recipe: Recipe) -> Plan:
    """The plan of a graph in which these scales are moved; what is stored in 8 bits is decided anew."""
    wanted = products_by_input(plan_)
    model = load(plan_.prepared)
    model.outside = plan_.outside
    taken, inputs, done = names_in(model), dict[str, str](), list[Smoothed]()
    for one in found:
        if one.tensor not in wanted:
            continue  # its readers stay float in this plan
        divided = smooth(model, wanted[one.tensor], one.scale, taken)
        inputs |= {layer.name: divided.tensor for layer in wanted[one.tensor]}
        done.append(replace(one, into=divided.into))
    if not done:
        return replace(plan_, unsmoothed=len(wanted))
    layers = tuple(replace(layer, input=inputs.get(layer.name, layer.input)) for layer in plan_.layers)
    placement = place(model, layers, rules, recipe.size_first)
    return replace(
        plan_,
        prepared=to_proto(model),
        layers=layers,
        placement=placement,
        smoothed=tuple(done),
        unsmoothed=len(wanted) - len(done),
    )


def smooth_notes(plan_: Plan) -> tuple[str, ...]:
    """What the user is told."""
    done, left = plan_.smoothed, plan_.unsmoothed
    if not done:
        return (NONE.format(total=left),) if left else ()
    alone = sum(not one.into for one in done)
    gains = [one.gain for one in done]
    muls = MULS.format(count=alone) if alone else ""
    total = len(done) + left
    return (DONE.format(count=len(done), total=total, muls=muls, least=min(gains), most=max(gains)),)
