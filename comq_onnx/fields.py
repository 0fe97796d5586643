"""The fields of a recipe as keywords of `quantize` and as keys of a file: their types, and values checked."""

import math
from collections.abc import Sequence
from typing import Any, TypedDict, get_origin, get_type_hints

from comq_onnx.errors import ComqError
from comq_onnx.recipe import (
    CHOICES,
    Activations,
    BiasMode,
    CalibrationMethod,
    Effort,
    FirstLast,
    HighPrecision,
    Inputs,
    Recipe,
    Solver,
    TargetName,
    WeightForm,
    Weights,
)
from comq_onnx.sizes import gibibytes

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of texts",
}


class RecipeFields(TypedDict, total=False):
    """Keywords of `quantize`: the fields of `Recipe`, which says what each is.

    Typed as `Recipe` is, but wider where a caller may write what a command line would: a list for a tuple, a
    number for `block_size`, ``"2GB"`` for `memory_gib`.
    """

    weights: Weights
    activations: Activations
    calibration_method: CalibrationMethod
    target_size: str
    avg_bits: float
    target_latency: str
    max_drop: str
    metric: str
    symmetric: bool
    block_size: str | int
    solver: Solver
    effort: Effort
    bias: BiasMode
    inputs: Inputs
    mrecg: int
    target: TargetName
    high_precision_dtype: HighPrecision
    matmulnbits: bool
    size_first: bool
    reduce_range: bool
    twin_ranges: bool
    weight_form: WeightForm
    first_last: FirstLast
    quantize_embeddings: bool
    nodes_to_quantize: str | Sequence[str]
    nodes_to_exclude: str | Sequence[str]
    op_types_to_quantize: str | Sequence[str]
    rules: str | Sequence[str]
    keep_float: str | Sequence[str]
    calibration_samples: int
    batch_size: int
    calibration_shapes: str
    preprocess: str
    max_length: int
    mask_input: str
    memory_gib: float | str
    shards: int
    dask: str
    device: str
    threads: int
    seed: int


def checked(field: str, value: Any, where: str) -> Any:
    """`value` as the field of a `Recipe` holds it, from what a file or a caller may write for it.

    `block_size` may be a number, -1 for per channel, and `memory_gib` a size with a unit. ComqError, with
    `where` in front, for a value of another type, or that is none of the field's.
    """
    if field == "memory_gib" and isinstance(value, str):
        try:
            return gibibytes(value)
        except ValueError as error:
            raise ComqError(str(error), where=where) from None
    if field == "block_size" and type(value) is int:
        value = "channel" if value == -1 else str(value)
    kind = _kind(field)
    listed = CHOICES.get(field)
    fix = f"use one of {', '.join(listed)}" if listed else f"write {KINDS[kind]}"
    if not _holds(kind, value):
        raise ComqError(f"{value!r} is not {KINDS[kind]}", where=where, fix=fix)
    if listed and value not in listed:
        raise ComqError(f"{value!r} is not a value of it", where=where, fix=fix)
    return kind(value)


def _kind(field: str) -> type:
    hint = get_type_hints(Recipe)[field]
    return next((kind for kind in KINDS if kind in (hint, get_origin(hint))), str)  # a Literal is text


def _holds(kind: type, value: Any) -> bool:
    if kind is tuple:
        return isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and value >= 0
    return type(value) is kind
