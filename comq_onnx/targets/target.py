"""What every target offers, and what it hands back for each layer it wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx

from comq_onnx.graph.io import Model
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Solution
from comq_onnx.targets.findings import Finding

DEQUANTIZE = "DequantizeLinear"
CAST_SCALE = "Cast*scale"


@dataclass(frozen=True)
class Written:
    """How one layer was stored."""

    layer: str
    """Name of the node"""
    form: str
    """``DequantizeLinear``: kept as codes and fused; ``Cast*scale``: folded to floats at load."""
    bytes_after: int
    """Packed codes, scales and zero points as they lie in the file"""
    bias: str = ""
    """Where the compensating bias went; empty where there was none"""
    note: str = ""
    """Why the form is not the usual one; empty otherwise"""
    bias_bytes: int = 0
    """Of a bias for each position, in an Add of its own"""


class Target(Protocol):
    """A runtime's rules: which grids it holds, how codes are written, what must be true of the file."""

    @property
    def name(self) -> str: ...

    def required_opset(self, model: Model, recipe: Recipe) -> int:
        """The lowest opset that can hold `model` quantized by `recipe`; asked before layers are known."""
        ...

    def grid(self, layer: Layer, recipe: Recipe, bits: int) -> tuple[Grid, str]:
        """The grid for `layer` at `bits`, and why it is not the one asked for (empty where it is)."""
        ...

    def rewrite(
        self, model: Model, layers: Sequence[Layer], solutions: Mapping[str, Solution], recipe: Recipe
    ) -> list[Written]:
        """Write `solutions` into ``model.graph`` in place: codes, scales, biases, nothing rounded again."""
        ...

    def lint(self, proto: onnx.ModelProto) -> tuple[Finding, ...]:
        """What in a file, written by us or not, breaks the target's rules."""
        ...
