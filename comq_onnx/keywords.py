"""How to quantize, as a caller in Python says it: a recipe, a file that holds one, or fields as keywords."""

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from comq_onnx import config
from comq_onnx.errors import ComqError
from comq_onnx.fields import checked
from comq_onnx.recipe import Recipe

ARGUMENTS = ("model", "output", "data", "recipe", "progress", "resume")
"""Parameters of `pipeline.quantize` that are no fields of a recipe"""
ELSEWHERE = {
    "bits": "weights",
    "bit_width": "weights",
    "calibration_data": "data",
    "calibration_data_path": "data",
    "calibration_data_reader": "data",
    "config": "recipe",
    "dataset": "data",
    "memory": "memory_gib",
    "output_path": "output",
    "per_channel": "block_size",
    "rule": "rules",
    "weight_type": "weights",
}
"""Names of flags and of other tools' parameters that differ from the keyword here"""


def settled(recipe: Recipe | str | Path | None, keywords: Mapping[str, Any]) -> Recipe:
    """The recipe that is asked for: `recipe`, or the TOML file it names, with `keywords` over its fields.

    A text stands for a list of one. ComqError for a keyword that is no field, or a value that is not of it.
    """
    base = _base(recipe)
    names = [field.name for field in fields(Recipe)]
    changed = {}
    for name, value in keywords.items():
        if name not in names:
            raise ComqError(f"it has no keyword '{name}'", where="quantize", fix=_instead(name, names))
        changed[name] = checked(name, _plain(name, value), f"quantize({name}=)")
    return replace(base, **changed)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file, as ``--config`` reads it. ComqError where the file holds none."""
    return Recipe(**config.read_recipe(Path(path)))


def write_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write `recipe` to a TOML file, as ``--save-config`` does. ComqError where that cannot be written."""
    config.write_recipe(recipe, Path(path))


def _base(recipe: Recipe | str | Path | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is None:
        return Recipe()
    if isinstance(recipe, str | Path):
        return read_recipe(recipe)
    raise ComqError(
        f"a {type(recipe).__name__} is no recipe",
        where="quantize(recipe=)",
        fix="give a Recipe, the path of a TOML file, or fields as keywords: weights='int8'",
    )


def _instead(name: str, names: list[str]) -> str:
    close = get_close_matches(name, [*names, *ARGUMENTS], 1)
    near = ELSEWHERE.get(name) or (close[0] if close else "")
    return f"did you mean {near}" if near else "see the fields of comq_onnx.Recipe"


def _plain(name: str, value: Any) -> Any:
    """`value` as a file would hold it: NumPy's numbers as Python's, one text as a list of it."""
    if isinstance(value, np.generic):
        return value.item()
    several = isinstance(Recipe.__dataclass_fields__[name].default, tuple)
    return [value] if several and isinstance(value, str) else value
