"""The ways in which a target can store each layer's weight, and the bytes that each takes in the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from comq_onnx.graph.io import load
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer
from comq_onnx.targets import TARGETS
from comq_onnx.targets.placement import Placement
from comq_onnx.targets.size import rewritten_bytes

WIDTHS = ("int8", "int6", "int5", "int4", "int3", "int2")
NARROW = ("int4", "int3", "int2")
BLOCKS = ("channel", "64", "32")
"""Tried of narrow codes besides the target's own choice"""


@dataclass(frozen=True)
class Storage:
    """One way to store a layer's weight."""

    name: str
    """``float``, ``float16``, or the grid as the table says it"""
    width: str
    """As in a rule"""
    grid: Grid | None
    bytes: int


def storages(
    prepared: ModelProto, layers: Sequence[Layer], chosen: Sequence[Layer], recipe: Recipe, where: Placement
) -> dict[str, list[Storage]]:
    """Of each layer in `chosen`, floats first, then codes from wide to narrow.

    Of two grids of one width that take the same bytes, the first is listed alone: the target's own choice.
    """
    options = {layer.name: _grids(layer, recipe, where) for layer in chosen}
    sizes = _bytes(prepared, layers, options, recipe, where)
    found: dict[str, list[Storage]] = {}
    for layer in chosen:
        listed = _floats(layer, recipe) if layer.name not in where.layers else []
        for width, grid in options[layer.name].items():
            size = sizes[layer.name, width]
            known = [s for s in listed if s.grid and s.grid.bits == grid.bits and s.bytes == size]
            if not known:
                listed.append(Storage(str(grid), width, grid, size))
        found[layer.name] = listed
    return found


def _floats(layer: Layer, recipe: Recipe) -> list[Storage]:
    elements = int(np.prod(layer.layout.shape))
    if TARGETS[recipe.target].half(recipe) or layer.dtype in ("float16", "bfloat16"):
        return [Storage("float", "float", None, 2 * elements)]
    if layer.dtype != "float32":
        return [Storage("float", "float", None, 8 * elements)]
    whole = Storage("float", "float", None, 4 * elements)
    if not TARGETS[recipe.target].stores_codes:
        return [whole]
    return [whole, Storage("float16", "float16", None, 2 * elements + _cast_bytes(layer))]


def _cast_bytes(layer: Layer) -> int:
    """About what the Cast of a weight in float16 takes: its names are made of that of the weight."""
    return 60 + 5 * len(layer.weight)


def _grids(layer: Layer, recipe: Recipe, where: Placement) -> dict[str, Grid]:
    """By width as in a rule; what the target makes of each, without what comes to the same."""
    target, eight_bit = TARGETS[recipe.target], layer.name in where.layers
    found: dict[str, Grid] = {}
    for width in WIDTHS:
        blocks = ("", *BLOCKS) if recipe.block_size == "auto" and width in NARROW and not eight_bit else ("",)
        for block in blocks:
            changed: dict[str, Any] = {"weights": width, "block_size": block or recipe.block_size}
            asked = replace(recipe, **changed)
            held = where.reasons.get(layer.name, "")
            if not eight_bit and target.refuses(layer, asked, held):
                continue
            grid, _ = target.grid(layer, asked, int(width.removeprefix("int")), eight_bit)
            if grid not in found.values():
                found[f"{width}:{block}" if block else width] = grid
    return found


def _bytes(
    prepared: ModelProto,
    layers: Sequence[Layer],
    options: Mapping[str, Mapping[str, Grid]],
    recipe: Recipe,
    where: Placement,
) -> dict[tuple[str, str], int]:
    """Bytes of each layer on each of its grids: the target writes all layers at once, as often as needed."""
    listed = {name: list(grids.items()) for name, grids in options.items()}
    rounds = max(map(len, listed.values()), default=0)
    sizes: dict[tuple[str, str], int] = {}
    for number in range(rounds):
        taken = {name: grids[min(number, len(grids) - 1)] for name, grids in listed.items() if grids}
        part = [layer for layer in layers if layer.name in taken]
        grids = {name: grid for name, (_, grid) in taken.items()}
        for name, size in rewritten_bytes(load(prepared), part, grids, recipe, where).items():
            sizes[name, taken[name][0]] = size
    return sizes
