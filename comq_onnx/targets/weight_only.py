"""Weight-only quantization for onnxruntime and all that read the same files: which grids, which opset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import nodes_of
from comq_onnx.graph.tensors import dtype_of
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Solution
from comq_onnx.targets.blocks import choose_grid
from comq_onnx.targets.findings import Finding, Rule, findings
from comq_onnx.targets.rewrite import rewrite_weights
from comq_onnx.targets.target import Written

INT2_OPSET, INT4_OPSET, HALF_SCALE_OPSET, PER_CHANNEL_OPSET, CAST_OPSET = 25, 21, 19, 13, 7


@dataclass(frozen=True)
class WeightOnly:
    """DequantizeLinear where the runtime fuses it into the product, Cast*scale where it would not."""

    name: str
    packed_int2: bool
    """Whether 2-bit codes are stored in 2 bits (opset 25); they lie in an int4 tensor otherwise"""
    rules: tuple[Rule, ...]
    """What must be true of the file"""

    def required_opset(self, model: Model, recipe: Recipe) -> int:
        """The lowest opset that holds `recipe`: packed int2 25, int4 and blocks 21, half scales 19, DQ 13."""
        if recipe.bits < 8:
            return INT2_OPSET if recipe.bits == 2 and self.packed_int2 else INT4_OPSET
        if recipe.block_size not in ("auto", "channel", "tensor"):
            return INT4_OPSET
        nodes = [node for node, _ in nodes_of(model)]
        constants = [t for node in nodes for t in node.inputs if isinstance(t, gs.Constant)]
        half = any(dtype_of(t).name in ("float16", "bfloat16") for t in constants)
        linear = recipe.weight_form == "dq" or any(node.op in ("MatMul", "Gemm") for node in nodes)
        if linear:
            return HALF_SCALE_OPSET if half else PER_CHANNEL_OPSET
        return PER_CHANNEL_OPSET if half else CAST_OPSET

    def grid(self, layer: Layer, recipe: Recipe, bits: int) -> tuple[Grid, str]:
        """The grid for `layer`, and why it is not the one asked for. Embeddings are always 8-bit."""
        return choose_grid(layer, recipe, 8 if layer.layout.kind == "gather" else bits, self.packed_int2)

    def rewrite(
        self, model: Model, layers: Sequence[Layer], solutions: Mapping[str, Solution], recipe: Recipe
    ) -> list[Written]:
        """Write the solutions into ``model.graph``: codes, scales, biases. Node and output names stay."""
        return rewrite_weights(model, layers, solutions, recipe.weight_form, self.packed_int2)

    def lint(self, proto: onnx.ModelProto) -> tuple[Finding, ...]:
        """Everything in a file that breaks a rule of the runtimes it is for."""
        return findings(proto, self.rules)
