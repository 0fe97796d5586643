"""What is live between two segments, to be carried from one process to another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from comq_onnx.run.store import Key

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Live:
    """What a `Stream` holds between two segments: of some neighbouring batches, all that has to be known."""

    first: int
    """Number of the first sample"""
    entries: tuple[int, ...]
    """Samples in each batch"""
    arrays: Mapping[Key, np.ndarray]
    kinds: Mapping[str, str]
    types: Mapping[str, tuple[np.dtype, Shape | None]]
    """By tensor; None for an axis that differs from batch to batch"""

    def agreed(self, types: Sequence[Mapping[str, tuple[np.dtype, Shape | None]]]) -> "Live":
        """The same as the streams of all batches see it, `types` being theirs."""
        found = {
            name: (kind, _agreed([each[name][1] for each in types])) for name, (kind, _) in types[0].items()
        }
        return replace(self, types=found)


def _agreed(shapes: Sequence[Shape | None]) -> Shape | None:
    known = shapes[0]
    for shape in shapes[1:]:
        if known is None or shape is None or len(known) != len(shape):
            return None
        known = tuple(a if a == b else None for a, b in zip(known, shape, strict=True))
    return known
