"""Which rule by hand governs which layer, and the recipe that it makes for that layer."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.rules import Rule, keep_float, parse_rule


def governed(layers: Iterable[Layer], recipe: Recipe) -> dict[str, Rule]:
    """The rule of each layer that has one, by name: ``--keep-float``, or the last ``--rule`` that matches.

    It goes before `weights`, `block_size` and `first_last`, and before any budget. A pattern that matches
    nothing, or is none, is an error of `find.find_layers`.
    """
    # The first that matches in this order is the one that wins.
    rules = [*map(keep_float, recipe.keep_float), *map(parse_rule, reversed(recipe.rules))]
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    found: dict[str, Rule] = {}
    for layer in layers:
        for pattern, rule in compiled:
            if pattern.search(layer.name):
                found[layer.name] = rule
                break
    return found


def by_rule(recipe: Recipe, rule: Rule | None) -> Recipe:
    """The recipe for one layer: its width and block as `rule` has them, where it has."""
    if rule is None or rule.bits is None:
        return recipe
    changed: dict[str, Any] = {"weights": rule.width}
    return replace(recipe, **changed, block_size=rule.block or recipe.block_size)
