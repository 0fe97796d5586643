"""Padding tokens: which rows of an activation must enter neither mean nor Gram."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.run.data import Calibration

USUAL_NAME = "attention_mask"
FLAG = "--mask-input"


def mask_input(asked: str, inputs: Sequence[str], calibration: Calibration) -> str:
    """The input that is zero at padding tokens; empty where there is none.

    The one asked for, or an input of the usual name with the axes (batch, sequence). ComqError where the one
    asked for is no input of the model or has other axes.
    """
    name = asked or USUAL_NAME
    if name not in inputs:
        if asked:
            listed = ", ".join(f"'{other}'" for other in inputs)
            raise ComqError(f"'{asked}' is no input of the model", where=FLAG, fix=f"its inputs are {listed}")
        return ""
    shapes = [batch[name].shape for batch in islice(calibration.batches(), 1)]
    if shapes and len(shapes[0]) == 2:
        return name
    if asked:
        raise ComqError(
            f"'{asked}' has the shape {list(shapes[0]) if shapes else []}",
            where=FLAG,
            fix="name an input of shape [batch, sequence]",
        )
    return ""


def keep_rows(activation: Any, mask: np.ndarray, xp: Any = np) -> Any:
    """The rows of tokens that count.

    `activation` is an array of `xp`. `mask` is ``(batch, sequence)``, true where a token counts, and on the
    host. Activations whose leading axes are ``[batch, sequence]``, or their product, are cut; all others are
    returned as they are.
    """
    apart = activation.ndim > 2 and activation.shape[:2] == mask.shape
    joined = activation.ndim == 2 and mask.shape[1] > 1 and len(activation) == mask.size
    if not (apart or joined):
        return activation
    rows = activation.reshape(mask.size, *activation.shape[2:]) if apart else activation
    return rows[xp.asarray(np.flatnonzero(mask))]
