"""The command line that makes a file again, and the versions it was made with. No folders: reports travel."""

import inspect
import platform
import shlex
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

from comq_onnx.config import key_of
from comq_onnx.recipe import Recipe
from comq_onnx.run.feeds.text import TextFile

PROGRAM = "comq-onnx"
PACKAGES = (
    "comq-onnx",
    "numpy",
    "onnx",
    "onnx-graphsurgeon",
    "onnxruntime",
    "onnxruntime-gpu",
    "numba",
    "scipy",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cupy-cuda13x",
)
"""Whose versions may decide what is in a file, or what was found out about it"""
UNNAMED = {"model": "model.onnx", "data": "samples.npz", "tokenizer": "tokenizer.json"}
"""Stand for what was not a file"""


def command_line(recipe: Recipe, model: Any, data: Any, output: Path) -> str:
    """As it is typed in a POSIX shell; a model or data that were objects have the names of `UNNAMED`."""
    words = [PROGRAM, _word(_name(model, "model"))]
    if data is not None:
        words += _data(data)
    for field, value in asdict(recipe).items():
        if field in recipe.as_dict():
            words += flags(field, value)
    return shlex.join([*words, "-o", _word(output.name)])


def flags(field: str, value: Any) -> list[str]:
    """The words that set a field of the recipe to what is not its default."""
    flag = f"--{key_of(field)}"
    if field == "symmetric":
        return ["--asymmetric"]
    if isinstance(value, bool):
        return [flag]
    if isinstance(value, tuple):
        return [word for entry in value for word in flags(field, entry)]
    text = repr(value) if isinstance(value, float) else str(value)
    # What begins with a hyphen would be read as a flag of its own.
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def versions() -> dict[str, str]:
    """Of this program, of what is installed that it works with, of Python and of the machine."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        **found,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _data(data: Any) -> list[str]:
    """The flags that name the data; a function of a module is named so, other objects as `UNNAMED`."""
    if isinstance(data, TextFile):
        names = _word(_name(data.path, "data")), _word(_name(data.tokenizer, "tokenizer"))
        return ["--calibration-data", names[0], "--tokenizer", names[1]]
    if inspect.isfunction(data) and data.__module__ != "__main__" and data.__qualname__.isidentifier():
        return ["--calibration-data", f"{data.__module__}:{data.__qualname__}"]
    return ["--calibration-data", _word(_name(data, "data"))]


def _name(given: Any, what: str) -> str:
    if isinstance(given, onnx.ModelProto) or not isinstance(given, str | Path):
        return UNNAMED[what]
    return Path(given).resolve().name or UNNAMED[what]


def _word(name: str) -> str:
    return f"./{name}" if name.startswith("-") else name
