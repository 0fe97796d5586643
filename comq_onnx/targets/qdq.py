"""Files of DequantizeLinear and QuantizeLinear, for onnxruntime and all that read the same: grids, opsets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_graphsurgeon as gs

from comq_onnx.errors import ComqError
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import nodes_of
from comq_onnx.graph.tensors import dtype_of
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Solution
from comq_onnx.targets.blocks import choose_grid, eight_bit_grid
from comq_onnx.targets.findings import Finding, Rule, findings
from comq_onnx.targets.placement import DYNAMIC_RULES, NOTHING_STORED, ActivationRules, Stored
from comq_onnx.targets.rewrite import Form, forms_of, rewrite_weights
from comq_onnx.targets.target import Written

INT2_OPSET, INT4_OPSET, HALF_SCALE_OPSET, PER_CHANNEL_OPSET, CAST_OPSET = 25, 21, 19, 13, 7


@dataclass(frozen=True)
class QdqTarget:
    """DequantizeLinear where the runtime fuses it into the product, Cast*scale where it would not.

    Activations are stored in 8 bits where that is asked for.
    """

    name: str
    packed_int2: bool
    """Whether 2-bit codes are stored in 2 bits (opset 25); they lie in an int4 tensor otherwise"""
    rules: tuple[Rule, ...]
    """What must be true of the file"""
    eight_bit: ActivationRules | None = None
    """How activations are stored in 8 bits, where they can be"""
    dynamic: bool = False
    """Whether it has kernels for activations rounded on the fly"""
    contrib: bool = False
    """Whether it reads onnxruntime's own operators"""
    linear: bool = True
    """Whether the runtime has kernels for weights behind a DequantizeLinear"""
    pays: bool = False
    """Whether a DequantizeLinear is written only where the product is faster for it in onnxruntime"""
    stores_codes: bool = True
    for_onnxruntime: bool = True

    def half(self, recipe: Recipe) -> bool:
        """Whether what is not quantized is float16: where it is asked for."""
        return recipe.high_precision_dtype == "fp16"

    def refuses(self, layer: Layer, recipe: Recipe, held: str = "") -> str:
        """Empty: every layer has a form."""
        return ""

    def required_opset(self, model: Model, recipe: Recipe) -> int:
        """The lowest opset that holds `recipe`: packed int2 25, int4 and blocks 21, half scales 19, DQ 13."""
        if recipe.narrowest < 8:
            return INT2_OPSET if recipe.narrowest == 2 and self.packed_int2 else INT4_OPSET
        if not {"auto", "channel", "tensor"}.issuperset(recipe.block_sizes):
            return INT4_OPSET
        nodes = [node for node, _ in nodes_of(model)]
        constants = [t for node in nodes for t in node.inputs if isinstance(t, gs.Constant)]
        half = self.half(recipe) or any(dtype_of(t).name in ("float16", "bfloat16") for t in constants)
        linear = recipe.weight_form == "dq" or recipe.activations in ("int8", "dynamic")
        linear = linear or any(node.op in ("MatMul", "Gemm") for node in nodes)
        if linear:
            return HALF_SCALE_OPSET if half else PER_CHANNEL_OPSET
        return PER_CHANNEL_OPSET if half else CAST_OPSET

    def activations(self, recipe: Recipe, given: bool) -> ActivationRules | None:
        """Stored in 8 bits where asked for. ComqError where there is no such form."""
        if recipe.matmulnbits and not self.contrib:
            raise ComqError(
                f"target {self.name} does not read onnxruntime's own operators",
                where="--matmulnbits",
                fix="leave it out, or use --target ort",
            )
        if recipe.activations == "dynamic" and not self.dynamic:
            raise ComqError(
                f"target {self.name} has no kernels for activations rounded on the fly",
                where="--activations dynamic",
                fix="use --activations int8, or --target ort",
            )
        if recipe.activations == "dynamic":
            return DYNAMIC_RULES
        rules = self.eight_bit if recipe.activations == "int8" else None
        if rules and recipe.twin_ranges and rules.twin_products:
            return replace(rules, products=True)
        return rules

    def grid(self, layer: Layer, recipe: Recipe, bits: int, eight_bit: bool = False) -> tuple[Grid, str]:
        """The grid for `layer`, and why it is not the one asked for."""
        if eight_bit:
            return eight_bit_grid(recipe, bits)
        return choose_grid(layer, recipe, bits, self.packed_int2)

    def forms(
        self, model: Model, layers: Sequence[Layer], solutions: Mapping[str, Solution], recipe: Recipe
    ) -> list[tuple[str, str]]:
        """By what the runtime fuses, and what that is worth."""
        return forms_of(model, layers, solutions, self._form(recipe))

    def rewrite(
        self,
        model: Model,
        layers: Sequence[Layer],
        solutions: Mapping[str, Solution],
        recipe: Recipe,
        stored: Stored = NOTHING_STORED,
    ) -> list[Written]:
        """Write the solutions into ``model.graph``: codes, scales, biases. Node and output names stay."""
        return rewrite_weights(model, layers, solutions, self._form(recipe), stored)

    def _form(self, recipe: Recipe) -> Form:
        """How weights are stored."""
        rules = self.eight_bit
        return Form(
            recipe.weight_form,
            self.packed_int2,
            float_bias=rules is not None and rules.float_bias,
            apart=rules is not None and rules.apart,
            linear=self.linear,
            pays=self.pays and not recipe.size_first and recipe.weight_form == "auto",
            nbits=recipe.matmulnbits,
            half=self.half(recipe),
            for_onnxruntime=self.for_onnxruntime,
        )

    def lint(self, proto: onnx.ModelProto, recipe: Recipe | None = None) -> tuple[Finding, ...]:
        """Everything in a file that breaks a rule of the runtimes it is for."""
        return findings(proto, self.rules)

    def advice(
        self, file: str, proto: onnx.ModelProto, fed: Mapping[str, Sequence[tuple[int, ...]]]
    ) -> tuple[str, ...]:
        """Nothing: the file runs as it is."""
        return ()
