"""Answers of a model that are no tensors, as arrays."""

from typing import Any

import numpy as np


def plain_array(value: Any) -> np.ndarray:
    """An output as an array; the values of a sequence, a map (by its keys) or an optional in one row.

    Tensors are as they are, an optional that is empty has no values.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, dict):
        return plain_array([value[key] for key in sorted(value)])
    parts = value if isinstance(value, list) else [] if value is None else [value]
    rows = [np.reshape(plain_array(part) if isinstance(part, list | dict) else part, -1) for part in parts]
    return np.concatenate(rows) if rows else np.zeros(0)
