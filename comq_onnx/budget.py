"""Budgets as people write them."""

import re
from dataclasses import dataclass

from comq_onnx.errors import ComqError

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2.0**10, "MI": 2.0**20, "GI": 2.0**30}


@dataclass(frozen=True)
class Amount:
    """A number that is meant as it is, or as a part of the float model's."""

    value: float
    relative: bool

    def of(self, whole: float) -> float:
        return self.value * whole if self.relative else self.value


def parse_drop(text: str) -> Amount:
    """``0.5%``, a part of the float model's score, or ``0.3``, as it is. ComqError for others."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*", text)
    if found is None or not float(found[1]):
        raise ComqError(f"{text!r} is no drop", where="--max-drop", fix="write 0.5% or 0.005")
    return Amount(float(found[1]) / (100 if found[2] else 1), bool(found[2]))


def parse_size(text: str) -> Amount:
    """``12MB``, ``1.5GiB``, ``8000B``, or ``0.2x``: a part of the float file. ComqError for others."""
    found = re.fullmatch(r"\s*(\d+\.?\d*)\s*(?:([KMG]I?)?B|(X))\s*", text.upper())
    if found is None or not float(found[1]):
        raise ComqError(
            f"{text!r} is no size",
            where="--target-size",
            fix="write 12MB, 800KiB or 0.2x, a part of the float file",
        )
    return Amount(float(found[1]) * (1.0 if found[3] else UNITS[found[2] or ""]), bool(found[3]))
