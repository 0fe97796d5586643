"""TensorRT: int4 weights of products in blocks of 64 or 128, 8-bit convolutions, everything else in float16.

TensorRT has int4 for the weights of MatMul and Gemm only, symmetric, with a scale for each block of 64 or 128
rows; it has 8-bit weights only beside 8-bit activations, which are int8 around zero. It wants Q/DQ at the
inputs of layers, and at what the output of a Conv is added to, none at outputs, and biases in float. It takes
the types of the file as they are (strongly typed: the only way from version 11 on), so that a float32 graph
would run in float32.
Sources: NVIDIA's documentation (Quantization Schemes, Explicit Quantization, ONNX opset guide), NvInfer.h
11.1 and the parser of onnx-tensorrt 10.1. TensorRT for RTX 1.7 builds engines of these files, whose 8-bit
layers compute on int8 codes and whose int4 weights stay int4 (docs/targets.md); no GPU has run them.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import onnx

from comq_onnx.errors import ComqError
from comq_onnx.graph.edit import add_position_bias, fold_bias, replace_weight
from comq_onnx.graph.io import Model
from comq_onnx.graph.locate import names_in
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import ActivationKind, Layer, Solution
from comq_onnx.targets.blocks import dividing_block, eight_bit_grid, is_right_side
from comq_onnx.targets.eight_bit import eight_bit_weight, store_activations
from comq_onnx.targets.engine_shapes import Shapes, shape_flags
from comq_onnx.targets.findings import Finding, findings
from comq_onnx.targets.forms import dequantize_linear, plan_linear
from comq_onnx.targets.piece import Piece
from comq_onnx.targets.placement import NOTHING_STORED, ActivationRules, Site, Stored
from comq_onnx.targets.rules.tensorrt import IN_FLOAT32, RULES
from comq_onnx.targets.target import DEQUANTIZE, EIGHT_BIT, Written

INT4_OPSET, INT8_OPSET = 21, 19
SMALLEST_BLOCK, LARGEST_BLOCK = 64, 128
LAYERS = "--dumpLayerInfo --profilingVerbosity=detailed --exportLayerInfo={layers}"


def refuses_eight_bit(site: Site) -> str:
    """Layers that TensorRT has no use for in 8 bits."""
    if site.layer.op == "ConvTranspose":
        return "scales per channel of an 8-bit ConvTranspose are not documented"
    if site.pooled and not site.size_first:
        return "it computes one position: nothing to gain"
    return ""


def refuses_products(site: Site) -> str:
    """All but convolutions."""
    products = site.layer.op not in ("Conv", "ConvTranspose")
    return "its weight alone is int4" if products else refuses_eight_bit(site)


LAYERS_RULES = ActivationRules(
    kind=ActivationKind(signed=True, symmetric=True),
    outputs=frozenset(),
    float_bias=True,
    apart=False,
    carried=frozenset(),
    residuals=True,
    products=True,
    refuses=refuses_eight_bit,
    spares=False,
)
CONV_RULES = replace(LAYERS_RULES, products=False, refuses=refuses_products)


@dataclass(frozen=True)
class TensorRT:
    """Weight-only int4 and W8A8 in a float16 graph."""

    name: str = "tensorrt"
    stores_codes: bool = True
    for_onnxruntime: bool = False

    def half(self, recipe: Recipe) -> bool:
        """Whether what is not quantized is float16: unless float32 is asked for."""
        return recipe.high_precision_dtype != "fp32"

    def required_opset(self, model: Model, recipe: Recipe) -> int:
        """21 for int4, 19 for int8."""
        return INT4_OPSET if recipe.narrowest < 8 else INT8_OPSET

    def activations(self, recipe: Recipe, given: bool) -> ActivationRules | None:
        """All layers in 8 bits on request; with samples, convolutions are, for which there is no int4.

        ComqError where TensorRT has nothing of what `recipe` asks for.
        """
        check(recipe, given)
        if all_in_eight_bits(recipe, given):
            return LAYERS_RULES
        return CONV_RULES if recipe.activations == "auto" and given else None

    def refuses(self, layer: Layer, recipe: Recipe, held: str = "") -> str:
        """Why `layer` is not stored in int4."""
        stays = "stays fp16" if self.half(recipe) else "stays float"
        if layer.op in ("Conv", "ConvTranspose"):
            if held:
                return f"{held}, and TensorRT has no int4 {layer.op}: {stays}"
            return f"TensorRT has no int4 {layer.op}; give samples, or --activations int8: {stays}"
        if layer.op == "Gather":
            return f"TensorRT has no quantized embeddings: {stays}"
        if recipe.bits in (5, 6):
            return f"TensorRT has weights of 4 bits, or of 8 beside 8-bit activations: {stays}"
        if recipe.bits == 8:
            why = held or "its activations are float"
            return f"{why}, and TensorRT has 8-bit weights beside 8-bit activations only: {stays}"
        if not is_right_side(layer.layout):
            return f"TensorRT takes int4 weights as the [K, N] right operand only: {stays}"
        if layer.dtype == "float64":
            return f"TensorRT has no float64 scales: {stays}"
        if layer.layout.rows % SMALLEST_BLOCK:
            return f"TensorRT's int4 blocks of 64 or 128 do not divide {layer.layout.rows} rows: {stays}"
        if layer.layout.cols % 2:
            return f"TensorRT packs int4 in pairs, and there are {layer.layout.cols} columns: {stays}"
        return ""

    def grid(self, layer: Layer, recipe: Recipe, bits: int, eight_bit: bool = False) -> tuple[Grid, str]:
        """Blocks of 128, or 64 where it must or shall be that; or coarser, on request. 8-bit beside 8-bit."""
        if eight_bit:
            wide = "int8: TensorRT has no narrower weights beside 8-bit activations" if bits < 8 else ""
            grid, note = eight_bit_grid(recipe, 8)
            return grid, "; ".join(filter(None, (wide, note)))
        if bits == 8:  # --first-last int8, of a layer whose activations are float
            grid, note = self.grid(layer, recipe, recipe.bits)
            wide = "TensorRT has 8-bit weights beside 8-bit activations only"
            return grid, "; ".join(filter(None, (f"{wide}: int{recipe.bits}", note)))
        if recipe.block_size in ("channel", "tensor"):
            return Grid(bits, True, recipe.block_size), ""
        auto = recipe.block_size == "auto"
        asked = LARGEST_BLOCK if auto else int(recipe.block_size)
        at_most = min(max(asked, SMALLEST_BLOCK), LARGEST_BLOCK)
        block = dividing_block(layer.layout.rows, at_most, SMALLEST_BLOCK)
        grid = Grid(bits, True, "block", block)
        if auto or block == asked:
            return grid, ""
        if at_most != asked:
            return grid, f"TensorRT has blocks of 64 and 128, not {asked}: {block}"
        return grid, f"{asked} does not divide {layer.layout.rows} rows: block {block}"

    def forms(
        self, model: Model, layers: Sequence[Layer], solutions: Mapping[str, Solution], recipe: Recipe
    ) -> list[tuple[str, str]]:
        """A DequantizeLinear each: what has another form is refused."""
        return [(DEQUANTIZE, "") for _ in layers]

    def rewrite(
        self,
        model: Model,
        layers: Sequence[Layer],
        solutions: Mapping[str, Solution],
        recipe: Recipe,
        stored: Stored = NOTHING_STORED,
    ) -> list[Written]:
        """A DequantizeLinear along axis 0 for each layer; scales per channel are repeated over blocks.

        Layers that compute in 8 bits have one per channel.
        """
        taken = names_in(model)
        how = taken, self.half(recipe), stored.placement.layers
        written = [_write(model, layer, solutions[layer.name], how) for layer in layers]
        store_activations(model, stored, False, taken)
        return written

    def lint(self, proto: onnx.ModelProto, recipe: Recipe | None = None) -> tuple[Finding, ...]:
        """What breaks a rule of the runtime; that all is float32 is no breach where that was asked for."""
        asked = recipe is not None and not self.half(recipe)
        return findings(proto, [rule for rule in RULES if not (asked and rule.id == IN_FLOAT32)])

    def advice(self, file: str, proto: onnx.ModelProto, fed: Shapes) -> tuple[str, ...]:
        """How the file becomes an engine."""
        ten, eleven = build_commands(file, proto, fed)
        return f"TensorRT 10: {ten}", f"TensorRT 11: {eleven}"


TENSORRT = TensorRT()


def all_in_eight_bits(recipe: Recipe, given: bool) -> bool:
    """Whether all layers compute in 8 bits: on request, or with 8-bit weights where there are samples."""
    return recipe.activations == "int8" or (recipe.activations == "auto" and given and recipe.bits == 8)


def check(recipe: Recipe, given: bool) -> None:
    """ComqError where `recipe` asks for what TensorRT does not have; `given` is whether there are samples."""
    if not recipe.symmetric:
        raise ComqError("TensorRT has no zero points", where="--asymmetric", fix="leave it out")
    if recipe.matmulnbits:
        raise ComqError("TensorRT does not have the operator", where="--matmulnbits", fix="leave it out")
    if recipe.activations == "dynamic":
        raise ComqError(
            "TensorRT does not round activations on the fly",
            where="--activations dynamic",
            fix="use --activations int8",
        )
    if all_in_eight_bits(recipe, given):
        return
    for wide, flag in ((recipe.bits == 8, "--weights int8"), (recipe.first_last == "int8", "--first-last")):
        if wide:
            raise ComqError(
                "TensorRT has 8-bit weights beside 8-bit activations only",
                where=flag,
                fix="use --activations int8, or --weights int4 and --first-last same",
            )


def build_commands(path: str, proto: onnx.ModelProto, fed: Shapes | None = None) -> tuple[str, str]:
    """What to type to build an engine of the file at `path`, with TensorRT 10 and with TensorRT 11.

    `fed` holds shapes that were fed, by input name; dynamic axes range over these.
    """
    stem = str(PurePath(path).with_suffix(""))
    common = ["trtexec", f"--onnx={path}", f"--saveEngine={stem}.plan"]
    shapes = shape_flags(proto, fed or {})
    layers = LAYERS.format(layers=f"{stem}.layers.json").split(" ", 2)
    return shlex.join([*common, "--stronglyTyped", *shapes]), shlex.join([*common, *shapes, *layers])


def _write(
    model: Model, layer: Layer, solution: Solution, how: tuple[set[str], bool, frozenset[str]]
) -> Written:
    taken, half, eight_bit = how
    bias = fold_bias(model, layer, solution.bias, taken)
    piece, plan = Piece(layer, taken, half, model.outside), plan_linear(layer, solution, 4)
    if layer.name in eight_bit:
        weight = eight_bit_weight(piece, solution, 8)
        more = add_position_bias(model, layer, solution.position_bias, taken)
        replace_weight(model, layer, piece.nodes, weight)
        return Written(layer.name, EIGHT_BIT, piece.bytes, bias, bias_bytes=more)
    if plan is None or plan.block not in (SMALLEST_BLOCK, LARGEST_BLOCK):
        raise ValueError(f"{layer.name}: {solution.grid} is no grid of TensorRT's")
    weight = dequantize_linear(piece, solution, 4, plan)
    more = add_position_bias(model, layer, solution.position_bias, taken)
    replace_weight(model, layer, piece.nodes, weight)
    return Written(layer.name, DEQUANTIZE, piece.bytes, bias, bias_bytes=more)
