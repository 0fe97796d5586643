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
from comq_onnx.targets.placement import NOTHING_STORED, ActivationRules, Stored

DEQUANTIZE = "DequantizeLinear"
CAST_SCALE = "Cast*scale"
PLANES = "bit planes"
EIGHT_BIT = "int8 kernel"
DYNAMIC = "MatMulInteger"
NBITS = "MatMulNBits"
PLAIN = "float values"
HALVED = "float16"


@dataclass(frozen=True)
class Written:
    """How one layer was stored."""

    layer: str
    """Name of the node"""
    form: str
    """``DequantizeLinear``: kept as codes and fused; ``Cast*scale`` and ``bit planes``: folded to floats at
    load; ``int8 kernel`` and ``MatMulInteger``: multiplied as integers; ``MatMulNBits``: onnxruntime's own;
    ``float values``: no codes at all; ``float16``: not quantized but rounded to that; empty: stays."""
    bytes_after: int
    """Packed codes, scales and zero points as they lie in the file"""
    bias: str = ""
    """Where the compensating bias went; empty where there was none"""
    note: str = ""
    """Why the form is not the usual one; empty otherwise"""
    bias_bytes: int = 0
    """Of a bias for each position, in an Add of its own"""
    solution: Solution | None = None
    """What was written where that is not quite what was solved"""
    choice: str = ""
    """Why the form is what it is, where that is no fallback"""
    node_bytes: int = 0
    """About what the nodes around the codes take in the file"""


class Target(Protocol):
    """A runtime's rules: which grids it holds, how codes are written, what must be true of the file."""

    @property
    def name(self) -> str: ...

    @property
    def stores_codes(self) -> bool:
        """Whether the file holds codes and scales; if not, the floats that they stand for."""
        ...

    @property
    def for_onnxruntime(self) -> bool:
        """Whether files are made to run fast in onnxruntime, so that what it fuses counts."""
        ...

    def half(self, recipe: Recipe) -> bool:
        """Whether what is not quantized is float16. ComqError where that was asked for and cannot be."""
        ...

    def refuses(self, layer: Layer, recipe: Recipe, held: str = "") -> str:
        """Why the runtime has no use for `layer` quantized, so that it stays float; empty where it has.

        `layer` does not compute in 8 bits; `held` says why, where layers of this file may.
        """
        ...

    def required_opset(self, model: Model, recipe: Recipe) -> int:
        """The lowest opset that can hold `model` quantized by `recipe`; asked before layers are known."""
        ...

    def activations(self, recipe: Recipe, given: bool) -> ActivationRules | None:
        """How activations are stored in 8 bits; None where they stay float.

        `given` is whether there is calibration data. ComqError where the target has no such files.
        """
        ...

    def grid(self, layer: Layer, recipe: Recipe, bits: int, eight_bit: bool = False) -> tuple[Grid, str]:
        """The grid for `layer` at `bits`, and why it is not the one asked for (empty where it is).

        `eight_bit` is whether the layer computes in 8 bits.
        """
        ...

    def forms(
        self, model: Model, layers: Sequence[Layer], solutions: Mapping[str, Solution], recipe: Recipe
    ) -> list[tuple[str, str]]:
        """The form that `rewrite` would give each layer whose activations stay float, and why it is so.

        Only shapes are looked at, and nothing is changed.
        """
        ...

    def rewrite(
        self,
        model: Model,
        layers: Sequence[Layer],
        solutions: Mapping[str, Solution],
        recipe: Recipe,
        stored: Stored = NOTHING_STORED,
    ) -> list[Written]:
        """Write `solutions` into ``model.graph`` in place: codes, scales, biases, nothing rounded again.

        Activations are stored in 8 bits as `stored` says.
        """
        ...

    def lint(self, proto: onnx.ModelProto, recipe: Recipe | None = None) -> tuple[Finding, ...]:
        """What in a file, written by us or not, breaks the target's rules; less what `recipe` asks for."""
        ...

    def advice(
        self, file: str, proto: onnx.ModelProto, fed: Mapping[str, Sequence[tuple[int, ...]]]
    ) -> tuple[str, ...]:
        """What the user does next with the written `file`; `fed` holds shapes of samples by input name."""
        ...
