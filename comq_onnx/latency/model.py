"""Seconds by layer and storage, their sum, and the latency that a user asks for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from comq_onnx.errors import ComqError

FLOAT, FLOAT16 = "float", "float16"
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Latency:
    """A latency asked for: seconds, or a multiple of the float model's."""

    amount: float
    relative: bool

    def seconds(self, whole: float) -> float:
        """The latency in seconds, `whole` being the float model's."""
        return self.amount * whole if self.relative else self.amount


def parse_latency(text: str) -> Latency:
    """``5ms``, ``0.8s`` or ``800us``; ``0.8x`` is times the float model's. ComqError for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|x)", text)
    if found is None or not float(found[1]):
        raise ComqError(
            f"{text!r} is no latency",
            where="--target-latency",
            fix="write 5ms, 0.8s or 800us, or 0.8x for a multiple of the float model's",
        )
    amount, unit = float(found[1]), found[2]
    return Latency(amount, True) if unit == "x" else Latency(amount * UNITS[unit], False)


@dataclass(frozen=True)
class LatencyModel:
    """Seconds on one batch of calibration data, the middle one."""

    whole: float
    """Of the float model, the median"""
    rest: float
    """What is not in the layers: `whole` without the float times in `layers`, never below 0"""
    layers: Mapping[str, Mapping[str, float]]
    """Of a layer alone, by its name and how it is stored: ``str(grid)``, ``float`` or ``float16``.

    A layer that takes as long as float however it is stored has zeros: its time is in the rest.
    """

    def seconds(self, choice: Mapping[str, str]) -> float:
        """Of the whole model; a layer that has no choice is float. KeyError for what was not measured."""
        if unknown := choice.keys() - self.layers.keys():
            raise KeyError(f"no layer {min(unknown)!r} was measured")
        return self.rest + sum(times[choice.get(name, FLOAT)] for name, times in self.layers.items())
