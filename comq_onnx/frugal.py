"""Once more with less in memory at a time, where memory ran out: smaller batches first, then the disk.

Files do not depend on how much memory there is; of smaller batches they are the same but for rounding.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from comq_onnx.errors import MemoryExhaustedError
from comq_onnx.planning import Opened
from comq_onnx.recipe import Recipe

LITTLE = 1 / 16
"""GiB of statistics and activations in memory, all others being on disk"""
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Means:
    """What there is to work with: samples to a batch, and GiB of statistics and activations in memory."""

    size: int
    gib: float

    def less(self, fixed: bool) -> "_Means | None":
        """Half the samples to a batch; at one sample, activations on disk; None where that is so already."""
        if not fixed and self.size > 1:
            return replace(self, size=self.size // 2)
        return None if 0 < self.gib <= LITTLE else replace(self, gib=LITTLE)

    def of(self, opened: Opened, recipe: Recipe) -> tuple[Opened, Recipe]:
        """The data and the recipe with so much of them at a time."""
        sized = opened.calibration.sized
        if sized is not None and self.size < recipe.batch_size:
            opened = replace(opened, calibration=sized(self.size))
        return opened, replace(recipe, batch_size=self.size, memory_gib=self.gib)


def within_memory(
    opened: Opened, recipe: Recipe, act: Callable[[Opened, Recipe], Result]
) -> tuple[Result, tuple[str, ...]]:
    """What `act` gives, tried again with less at a time while memory runs out; and a note of what that took.

    MemoryExhaustedError where the least there is still takes too much.
    """
    first, why = _Means(recipe.batch_size, recipe.memory_gib), ""
    means = first
    while True:
        try:
            result = act(*(means.of(opened, recipe) if means != first else (opened, recipe)))
        except (MemoryExhaustedError, MemoryError) as error:
            why = why or (error.what if isinstance(error, MemoryExhaustedError) else "memory ran out")
            less = means.less(fixed=opened.calibration.sized is None)
            if less is None:
                raise _exhausted(error) from error
            means = less  # no data are made here: `error` still holds on to the memory of what failed
        else:
            return result, (f"{why}: {_told(first, means)}",) if why else ()
        gc.collect()  # sessions and tensors of what failed may lie in circles


def _told(asked: _Means, had: _Means) -> str:
    parts = []
    if had.size != asked.size:
        parts.append(f"run in batches of {had.size} instead of {asked.size}")
    if had.gib != asked.gib:
        parts.append("with activations and statistics on disk")
    return ", ".join(parts)


def _exhausted(error: Exception) -> MemoryExhaustedError:
    where = error.where if isinstance(error, MemoryExhaustedError) else ""
    said = error.what if isinstance(error, MemoryExhaustedError) else "memory ran out"
    return MemoryExhaustedError(
        f"{said}, with the fewest samples to a batch and activations on disk",
        where=where,
        fix="give shorter samples, or a machine with more memory",
    )
