"""The recipe that a command line asks for: its flags, over those of ``--config``, over the defaults."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from comq_onnx.config import read_recipe, write_recipe
from comq_onnx.recipe import Recipe
from comq_onnx.spec_files import spec_of


def recipe_of(context: click.Context, options: dict[str, Any]) -> Recipe:
    """The recipe of `options`, ``config`` and ``save_config`` among them; written where that is asked for.

    A flag that was typed wins over the file; a repeatable one replaces the file's list. ComqError where the
    file or a value is wrong.
    """
    values = as_recipe(options)
    config, save = (values.pop(name) for name in ("config", "save_config"))
    recipe = Recipe(**values | without_typed(read_recipe(config), context) if config else values)
    if save:
        write_recipe(recipe, save)
    return recipe


def without_typed(found: dict[str, Any], context: click.Context) -> dict[str, Any]:
    """What was read, less the fields whose flags were typed."""
    source = context.get_parameter_source
    return {name: v for name, v in found.items() if source(name) is not ParameterSource.COMMANDLINE}


def as_recipe(options: dict[str, Any]) -> dict[str, Any]:
    """Flag values as recipe fields: -1 is the peers' spelling of per-channel; a file of a spec is read."""
    plain = dict(options)
    plain["block_size"] = "channel" if plain["block_size"] == "-1" else plain["block_size"]
    plain["preprocess"] = spec_of(plain["preprocess"])
    return plain


def default_output(model: Path, weights: str) -> Path:
    return model.with_name(f"{model.stem}_{weights}.onnx")
