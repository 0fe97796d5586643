"""Code of the user's, named on the command line as ``module:callable``: the only way it is ever run.

Never from a model's metadata, an archive or a recipe that was found somewhere. What the code raises when it
is called is the user's own bug and keeps its traceback.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from comq_onnx.errors import ComqError

Predict = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Runs a network: feeds by input name to outputs by name"""
Metric = Callable[[Predict], float]
"""The user's measure of a network; higher is better"""


def load_callable(text: str, flag: str) -> Callable[..., Any]:
    """The object that ``module:callable`` names; modules of the working folder are found too.

    ComqError, with `flag` as its place, where there is no such module, name or callable.
    """
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise ComqError(
            f"{text!r} is not module:callable", where=flag, fix="write it as my_module:my_function"
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise
        raise ComqError(
            f"there is no module {module!r}", where=flag, fix="run in its folder, or install it"
        ) from None
    finally:
        sys.path.remove(here)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ComqError(f"{module!r} has no callable {name!r}", where=flag, fix="name a function of it")
    return found


def load_metric(text: str) -> Metric:
    """A metric by name, whose answers are checked.

    It is called with `Predict`, and gives a finite number; higher is better. What it feeds, and what it knows
    of the truth, is its own affair.
    """
    function = load_callable(text, "--metric")

    def metric(predict: Predict) -> float:
        value = function(predict)
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = float("nan")
        if not np.isfinite(score):
            raise ComqError(
                f"it gave {value!r}, which is not a finite number",
                where=f"--metric {text}",
                fix="give a score, higher is better",
            )
        return score

    return metric
