"""What each target would do with the weights of a model, at each width, told without running the model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import get_args

import onnx

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.contents import Contents, Offer, Weight, contents
from comq_onnx.evaluate.report import BYTES
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import Model, load
from comq_onnx.graph.locate import nodes_of
from comq_onnx.graph.prepare import prepare
from comq_onnx.planning import check_placement, choose_grids, refuse
from comq_onnx.recipe import Recipe, Weights
from comq_onnx.records import Layer, Skipped
from comq_onnx.targets import TARGETS
from comq_onnx.targets.placement import NOWHERE, Placement, place
from comq_onnx.targets.size import made_up
from comq_onnx.targets.target import EIGHT_BIT

WIDTHS: tuple[Weights, ...] = tuple(sorted(get_args(Weights), key=lambda w: -int(w.removeprefix("int"))))
"""From wide to narrow"""
ACTIVATIONS = "activations"
"""In place of a width: whether the layer would compute in 8 bits"""


def inspect(model: str | Path | onnx.ModelProto, targets: Sequence[str] = ()) -> Contents:
    """What a model holds, and what each of `targets` (all where it is empty) would do with its weights.

    Only shapes decide. It is assumed that there will be calibration data, and that nothing but the target and
    the width is asked for; ``activations`` tells of ``--activations int8``. The model is not run.

    Raises
    ------
    ComqError
        The file is missing, is no ONNX or is damaged; a weight holds NaN or Inf; there is no such target.
    """
    if strange := [name for name in targets if name not in TARGETS]:
        raise ComqError(
            "there is no such target", where=f"target {strange[0]!r}", fix=f"name one of {', '.join(TARGETS)}"
        )
    loaded = load(model)
    forms = _Forms(loaded)
    ready, layers, skipped = forms.at(0, False)
    offers = {name: _offers(forms, name) for name in targets or TARGETS}
    order = {node.name: place for place, (node, _) in enumerate(nodes_of(ready))}
    lines = [
        *(
            _line(layer, {name: found.get(layer.name, {}) for name, found in offers.items()})
            for layer in layers
        ),
        *map(_kept, skipped),
    ]
    return contents(model, tuple(sorted(lines, key=lambda line: order.get(line.layer, len(order)))))


@dataclass(frozen=True)
class _Forms:
    """A model prepared for what targets ask for, each form once."""

    loaded: Model
    known: dict[tuple[int, bool], tuple[Model, list[Layer], list[Skipped]]] = field(default_factory=dict)

    def at(self, opset: int, absorb: bool) -> tuple[Model, list[Layer], list[Skipped]]:
        """Prepared at `opset` or above, its layers, and what nothing can quantize.

        ComqError where an operator cannot be brought there.
        """
        key = max(opset, self.loaded.opset), absorb
        if key not in self.known:
            ready = prepare(self.loaded, *key)
            self.known[key] = (ready, *find_layers(ready, Recipe(quantize_embeddings=True)))
        return self.known[key]


def _offers(forms: _Forms, target: str) -> dict[str, dict[str, Offer]]:
    """By layer and width."""
    found: dict[str, dict[str, Offer]] = {}
    for width in WIDTHS:
        recipe = Recipe(target=target, weights=width, quantize_embeddings=True)  # pyright: ignore
        for name, offer in _at_width(forms, recipe):
            found.setdefault(name, {})[width] = offer
    recipe = Recipe(target=target, weights="int8", activations="int8", quantize_embeddings=True)  # pyright: ignore
    for name, offer in _in_eight_bits(forms, recipe):
        found.setdefault(name, {})[ACTIVATIONS] = offer
    return found


def _at_width(forms: _Forms, recipe: Recipe) -> Iterable[tuple[str, Offer]]:
    """What becomes of each layer."""
    target = TARGETS[recipe.target]
    try:
        ready, layers, placement = _placed(forms, recipe)
    except ComqError as error:
        return [(layer.name, Offer("", "", error.what)) for layer in forms.at(0, False)[1]]
    taken, refused = refuse(layers, [], recipe, placement)
    grids, notes = choose_grids(taken, recipe, placement)
    for layer in taken:
        if layer.op == "Gather":  # narrower than int8 where a rule names it
            grids[layer.name], notes[layer.name] = target.grid(layer, recipe, recipe.bits)
    plain = [layer for layer in taken if layer.name not in placement.layers]
    solved = {layer.name: made_up(layer, grids[layer.name], recipe) for layer in plain}
    written = dict(zip((la.name for la in plain), target.forms(ready, plain, solved, recipe), strict=True))
    found = [(line.name, Offer("", "", line.reason)) for line in refused]
    for layer in taken:
        form, why = written.get(layer.name, (EIGHT_BIT, ""))
        said = "; ".join(filter(None, (notes.get(layer.name, ""), why)))
        found.append((layer.name, Offer(str(grids[layer.name]), form, said)))
    return found


def _in_eight_bits(forms: _Forms, recipe: Recipe) -> Iterable[tuple[str, Offer]]:
    """Which layers compute in 8 bits where that is asked for."""
    try:
        _, layers, placement = _placed(forms, recipe)
    except ComqError as error:
        return [(layer.name, Offer("", "", error.what)) for layer in forms.at(0, False)[1]]
    return [
        (layer.name, Offer("", EIGHT_BIT))
        if layer.name in placement.layers
        else (layer.name, Offer("", "", placement.reasons.get(layer.name, "stays float")))
        for layer in layers
    ]


def _placed(forms: _Forms, recipe: Recipe) -> tuple[Model, list[Layer], Placement]:
    """The model as the recipe prepares it, its layers, and those that compute in 8 bits.

    ComqError where the target has no file for what the recipe asks for.
    """
    target = TARGETS[recipe.target]
    rules = target.activations(recipe, True)
    ready, layers, _ = forms.at(target.required_opset(forms.loaded, recipe), rules is not None)
    placement = NOWHERE if rules is None else place(ready, layers, rules, recipe.size_first)
    if rules is not None and recipe.activations == "int8":
        # As a run has it: embeddings are not counted where they were not asked for.
        check_placement(placement, [la for la in layers if la.op != "Gather"], rules, recipe)
    return ready, layers, placement


def _line(layer: Layer, offers: Mapping[str, Mapping[str, Offer]]) -> Weight:
    shape = layer.layout.shape
    size = prod(shape) * BYTES[layer.dtype]
    return Weight(layer.name, layer.op, layer.weight, shape, layer.dtype, size, "", offers)


def _kept(line: Skipped) -> Weight:
    return Weight(line.name, line.op, line.weight, line.shape, "", line.bytes, line.reason)
