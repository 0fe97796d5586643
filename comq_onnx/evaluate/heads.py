"""Which outputs of a model are classes: by their values, by their names, by what makes them."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.closeness import Classes, read_classes
from comq_onnx.targets.view import View

NONE = "none"
LOGITS = ("logit",)
VECTORS = ("embed", "hidden", "feature", "box", "coord")
"""Parts of names of outputs that are not classes though a linear layer makes them"""
LINEAR = ("Gemm", "MatMul", "MatMulNBits")
PASSED = ("Identity", "Cast", "Add")
"""Operators between a linear layer and the output; an Add of a constant is its bias"""
MOST_HOPS = 8


def classes_of(
    proto: onnx.ModelProto, values: Mapping[str, np.ndarray], asked: Sequence[str] = ()
) -> dict[str, Classes]:
    """The outputs that are classes, of those in `values` (one sample's), and how to read them.

    Probabilities are known by their values. Others are logits where `asked` names them, or, where it is
    empty, where their name says so or they are rows that a linear layer with constant weights makes. `asked`
    may be ``none``. ComqError where it names no output.
    """
    if strange := [name for name in asked if name not in values and name != NONE]:
        listed = ", ".join(f"'{name}'" for name in values)
        raise ComqError(
            f"'{strange[0]}' is no output that both models have",
            where="--classes",
            fix=f"name one of {listed}, or none",
        )
    if NONE in asked:
        return {}
    view = View(proto)
    found = {}
    for name, value in values.items():
        logits = name in asked if asked else _looks_like_logits(view, name, value.ndim)
        read = read_classes(value, logits)
        if read is not None:
            found[name] = read
    return found


def _looks_like_logits(view: View, name: str, rank: int) -> bool:
    plain = name.lower()
    if any(word in plain for word in LOGITS):
        return True
    return rank == 2 and not any(word in plain for word in VECTORS) and _is_head(view, name)


def _is_head(view: View, name: str) -> bool:
    """Whether a product with constant weights, and at most its bias, makes an output."""
    scope = view.scopes[0]
    for _ in range(MOST_HOPS):
        node = scope.producer(name)
        if node is None or not node.input:
            return False
        constant = [view.is_constant(read, scope) for read in node.input if read]
        if node.op_type in LINEAR:
            return any(constant)
        if node.op_type not in PASSED or (node.op_type == "Add" and sum(constant) != 1):
            return False
        name = next(read for read, fixed in zip(node.input, constant, strict=True) if not fixed)
    return False
