"""Weights as the floats that their codes stand for: for converters that have a quantizer of their own.

Such a converter (of MNN, ncnn, TensorFlow Lite and others) reads a float file and rounds it again; on the
same grid it comes to the same codes, because every weight already is a point of that grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from comq_onnx.errors import ComqError
from comq_onnx.graph.edit import add_position_bias, fold_bias, replace_weight
from comq_onnx.graph.io import Model
from comq_onnx.graph.layout import from_rows
from comq_onnx.graph.locate import names_in
from comq_onnx.graph.tensors import bytes_of, float_tensor, message_of
from comq_onnx.grid import Grid, dequantize
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Solution
from comq_onnx.targets.blocks import choose_grid
from comq_onnx.targets.findings import Finding
from comq_onnx.targets.placement import NOTHING_STORED, ActivationRules, Stored
from comq_onnx.targets.target import PLAIN, Written

OLDEST_OPSET = 7
"""Runtimes have no kernels for what operators were before, with broadcasting by attributes."""


@dataclass(frozen=True)
class FakeQuant:
    """Plain float initializers; names, operators and the opset are those of the source."""

    name: str = "fakequant"
    stores_codes: bool = False
    for_onnxruntime: bool = False

    def half(self, recipe: Recipe) -> bool:
        """False: rounded to float16, the weights would no longer be points of their grid."""
        if recipe.high_precision_dtype == "fp16":
            raise ComqError(
                "the target writes float32 weights, which float16 would move off their grid",
                where="--high-precision-dtype fp16",
                fix="leave it out",
            )
        return False

    def required_opset(self, model: Model, recipe: Recipe) -> int:
        """That of the model, 7 at least. ComqError where `recipe` asks for more than float32 weights."""
        self.half(recipe)
        if recipe.activations in ("int8", "dynamic"):
            raise ComqError(
                "the target has float activations: its converters round them",
                where=f"--activations {recipe.activations}",
                fix="leave it out",
            )
        return max(OLDEST_OPSET, model.opset)

    def activations(self, recipe: Recipe, given: bool) -> ActivationRules | None:
        """None: they stay float."""
        return None

    def refuses(self, layer: Layer, recipe: Recipe, held: str = "") -> str:
        """Empty: any weight can be moved to its grid."""
        return ""

    def grid(self, layer: Layer, recipe: Recipe, bits: int, eight_bit: bool = False) -> tuple[Grid, str]:
        """As asked; ``auto`` is that of the target portable."""
        return choose_grid(layer, recipe, bits, packed_int2=False)

    def forms(
        self, model: Model, layers: Sequence[Layer], solutions: Mapping[str, Solution], recipe: Recipe
    ) -> list[tuple[str, str]]:
        """Floats, all of them."""
        return [(PLAIN, "") for _ in layers]

    def rewrite(
        self,
        model: Model,
        layers: Sequence[Layer],
        solutions: Mapping[str, Solution],
        recipe: Recipe,
        stored: Stored = NOTHING_STORED,
    ) -> list[Written]:
        """Give each weight the values of its solution, and fold the biases, as in all targets."""
        return put_floats(model, layers, solutions)

    def lint(self, proto: onnx.ModelProto, recipe: Recipe | None = None) -> tuple[Finding, ...]:
        """Nothing: a float file is a float file."""
        return ()

    def advice(
        self, file: str, proto: onnx.ModelProto, fed: Mapping[str, Sequence[tuple[int, ...]]]
    ) -> tuple[str, ...]:
        """Which grid the converter must be told."""
        return ("convert the file with the same width, blocks and symmetry as in the table above.",)


FAKEQUANT = FakeQuant()


def put_floats(model: Model, layers: Sequence[Layer], solutions: Mapping[str, Solution]) -> list[Written]:
    """Give each weight the values of its solution, and fold the biases."""
    taken = names_in(model)
    return [_write(model, layer, solutions[layer.name], taken) for layer in layers]


def _write(model: Model, layer: Layer, solution: Solution, taken: set[str]) -> Written:
    bias = fold_bias(model, layer, solution.bias, taken)
    values = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)
    tensor = float_tensor(layer.weight, from_rows(values, layer.layout), layer.dtype)
    if model.outside is not None:
        model.outside.take(message_of(tensor))
    more = add_position_bias(model, layer, solution.position_bias, taken)
    replace_weight(model, layer, [], tensor)
    return Written(layer.name, PLAIN, bytes_of(tensor), bias, bias_bytes=more)
