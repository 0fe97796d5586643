"""Solving again with less in memory at a time, where memory ran out: smaller batches first, then the disk.

Files do not depend on how much memory there is; of smaller batches they are the same but for rounding.
"""

from collections.abc import Callable
from dataclasses import replace

from comq_onnx.errors import MemoryExhaustedError
from comq_onnx.planning import Opened
from comq_onnx.recipe import Recipe
from comq_onnx.writing import Made

LITTLE = 1 / 16
"""GiB of statistics and activations in memory, all others being on disk"""
Make = Callable[[Opened, Recipe], Made]


def within_memory(opened: Opened, recipe: Recipe, make: Make) -> Made:
    """What `make` gives, tried with half the samples to a batch, and at one sample with activations on disk.

    What was done is in the notes. MemoryExhaustedError where even that takes more than there is.
    """
    notes: tuple[str, ...] = ()
    while True:
        try:
            made = make(opened, recipe)
        except (MemoryExhaustedError, MemoryError) as error:
            why = error.what if isinstance(error, MemoryExhaustedError) else "memory ran out"
            opened, recipe, note = _smaller(opened, recipe, error)
            notes += (f"{note}: {why}",)
        else:
            return replace(made, solved=replace(made.solved, notes=(*notes, *made.solved.notes)))


def _smaller(opened: Opened, recipe: Recipe, error: Exception) -> tuple[Opened, Recipe, str]:
    """The next thing to try; `error` once more where there is none."""
    sized, size = opened.calibration.sized, recipe.batch_size
    if sized is not None and size > 1:
        less = replace(opened, calibration=sized(size // 2))
        note = f"calibrated with {size // 2} samples to a batch instead of {size}"
        return less, replace(recipe, batch_size=size // 2), note
    if not 0 < recipe.memory_gib <= LITTLE:
        return opened, replace(recipe, memory_gib=LITTLE), "activations and statistics are kept on disk"
    if isinstance(error, MemoryExhaustedError):
        raise error
    raise MemoryExhaustedError(
        "memory ran out, with one sample to a batch and activations on disk",
        where="calibration",
        fix="give shorter samples, or a machine with more memory",
    ) from error
