"""A recipe as a TOML file: its keys are the flags of the command line, with hyphens or underscores.

Only how to quantize is in it; the model, the data and what is written belong to a command. `TOML
<https://toml.io/en/v1.0.0>`_ is read by the standard library.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tomli_w

from comq_onnx.errors import ComqError
from comq_onnx.fields import checked
from comq_onnx.interrupt import put_whole
from comq_onnx.recipe import Recipe
from comq_onnx.version import __version__

SUFFIX = ".toml"
FLAGS = {"memory_gib": "memory", "rules": "rule"}
"""Flags that are not named as their field of the recipe is."""


def read_recipe(path: Path) -> dict[str, Any]:
    """The fields of a `Recipe` that the file at `path` sets, with their values.

    Raises
    ------
    ComqError
        The file cannot be read or is no TOML; a key is unknown, or set twice; a value is of the wrong type.
    """
    keys = {key_of(f.name): f.name for f in fields(Recipe)}
    found: dict[str, Any] = {}
    for written, value in _read(path).items():
        where = f"--config {path}: {written}"
        key = written.replace("_", "-")
        if key not in keys:
            raise ComqError("it is no field of a recipe", where=where, fix=_instead(key, keys))
        if keys[key] in found:
            raise ComqError("it is set twice", where=where, fix="leave one of them out")
        found[keys[key]] = checked(keys[key], value, where)
    return found


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write what `recipe` sets to `path`, whole or not at all; `read_recipe` gives it back.

    Raises
    ------
    ComqError
        The file cannot be written, or is not named as TOML.
    """
    where = f"--save-config {path}"
    if path.suffix != SUFFIX:
        raise ComqError("a recipe is written as TOML", where=where, fix=f"name it {SUFFIX}")
    text = as_toml(recipe)
    try:
        put_whole(path, text.encode())
    except OSError as error:
        raise ComqError(
            f"the recipe cannot be written ({error.strerror})", where=where, fix="choose another file"
        ) from None


def as_toml(recipe: Recipe) -> str:
    """The recipe's fields that do not hold their default, behind a comment with the version."""
    return f"# comq-onnx {__version__}\n" + tomli_w.dumps(
        {key_of(name): value for name, value in recipe.as_dict().items()}
    )


def key_of(field: str) -> str:
    """The flag of a field, without its two hyphens."""
    return FLAGS.get(field, field).replace("_", "-")


def _read(path: Path) -> dict[str, Any]:
    where = f"--config {path}"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ComqError(
            f"it cannot be read ({error.strerror})", where=where, fix="name a TOML file"
        ) from None
    except ValueError as error:  # no UTF-8, or no TOML
        raise ComqError(
            f"it is no TOML ({error})", where=where, fix="write lines such as weights = 'int4'"
        ) from None


def _instead(key: str, keys: Mapping[str, str]) -> str:
    close = get_close_matches(key, keys, 1)
    if close:
        return f"did you mean {close[0]}"
    return "use names of flags that say how to quantize; models, data and reports are named in the command"
