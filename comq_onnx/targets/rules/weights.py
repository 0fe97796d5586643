"""Breaches by weight-only products: DequantizeLinear -> MatMul, Gemm, Conv or Gather with float activations.

onnxruntime fuses a DequantizeLinear into a MatMul or Gemm to keep the codes in memory; one that it does not
fuse is computed again on every call, in one thread, at a tenth to a half of the speed of the float model.
"""

from collections.abc import Iterator

import onnx

from comq_onnx.graph.scopes import Scope, integer_attribute
from comq_onnx.targets.rules.loading import Breach
from comq_onnx.targets.rules.products import (
    Product,
    contributed,
    float_attribute,
    products,
    right_sides,
    sole_reader,
    summed,
    weight_only,
)
from comq_onnx.targets.view import View, named

CLIPPED = ("Relu", "Clip")


def transposed_gemm(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        if product.node.op_type == "Gemm" and integer_attribute(product.node, "transB", 0):
            yield named(product.node), "transB = 1 with a quantized weight is not fused"


def scaled_gemm(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        node = product.node
        odd = [f"{name} = {v:g}" for name in ("alpha", "beta") if (v := float_attribute(node, name, 1)) != 1]
        odd += ["transA = 1"] if integer_attribute(node, "transA", 0) else []
        if node.op_type == "Gemm" and odd:
            yield named(node), f"{' and '.join(odd)} with a quantized weight is not fused"


def transposed_weight(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        small = product.weight.bits < 8 or product.weight.block
        if "Transpose" in product.path and small:
            yield named(product.node), "a Transpose lies between its weight's DequantizeLinear and it"


def negative_axis(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        axis = integer_attribute(product.weight.node, "axis", 1)
        if axis < 0 and not product.weight.per_tensor:
            yield named(product.weight.node), f"its axis is {axis}, which is not fused"


def shared(view: View) -> Iterator[Breach]:
    """Codes, scales or an output with more than one reader."""
    for product in _once(right_sides(view)):
        node, scope = product.weight.node, product.scope
        tensors = {"output": node.output[0], "codes": product.codes.name, "scales": node.input[1]}
        many = [what for what, name in tensors.items() if len(scope.readers.get(name, [])) > 1]
        if many:
            yield named(node), f"its {' and '.join(many)} have more than one reader, which is not fused"


def _once(found: Iterator[Product]) -> Iterator[Product]:
    """The products whose DequantizeLinear was not seen before."""
    seen: set[str] = set()
    for product in found:
        if product.weight.node.output[0] not in seen:
            seen.add(product.weight.node.output[0])
            yield product


def block_size(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        block = product.weight.block
        if block and (block & (block - 1) or not 16 <= block <= 256):
            yield named(product.weight.node), f"its block size {block} is not a power of two from 16 to 256"


def two_bit_block(view: View) -> Iterator[Breach]:
    """Only where a block of 64 is possible."""
    for product in right_sides(view):
        weight = product.weight
        possible = product.reduced == 0 and product.codes.dims[0] % 64 == 0
        if weight.bits == 2 and weight.block not in (64, 128) and possible:
            what = f"blocks of {weight.block}" if weight.block else "one scale per channel"
            yield named(weight.node), f"2-bit codes with {what} run at half the speed, or worse"
    for node, _ in contributed(view, "MatMulNBits"):
        block, rows = (integer_attribute(node, name, 0) for name in ("block_size", "K"))
        if integer_attribute(node, "bits", 4) == 2 and block not in (64, 128) and rows % 64 == 0:
            yield named(node), f"2-bit codes with blocks of {block} run at half the speed, or worse"


def ragged_blocks(view: View) -> Iterator[Breach]:
    for product in _once(products(view)):
        weight = product.weight
        rows = product.codes.dims[weight.axis] if 0 <= weight.axis < len(product.codes.dims) else 0
        if weight.block and rows % weight.block:
            yield named(weight.node), f"its block size {weight.block} does not divide {rows}"


def blocks_along_outputs(view: View) -> Iterator[Breach]:
    for product in weight_only(view, "MatMul", "Gemm"):
        weight = product.weight
        if weight.block and product.reduced is not None and weight.axis != product.reduced:
            yield named(weight.node), "its blocks lie along the output channels"


def scales_along_rows(view: View) -> Iterator[Breach]:
    for product in weight_only(view, "MatMul", "Gemm"):
        weight = product.weight
        if not (weight.block or weight.per_tensor) and weight.axis == product.reduced:
            yield named(weight.node), "its scales lie along the axis that is summed over, without blocks"


def one_scale_as_vector(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        weight = product.weight
        if weight.per_tensor and weight.scale is not None and weight.scale.dims:
            yield named(weight.node), "its one scale has the shape [1], which is not fused"


def left_operand(view: View) -> Iterator[Breach]:
    for product in products(view):
        if product.node.op_type in ("MatMul", "Gemm") and product.side == 0:
            yield named(product.node), "its quantized weight is the left operand, which is not fused"


def batched_weight(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        if len(product.codes.dims) != 2 and "Reshape" not in product.path:
            yield named(product.node), f"its quantized weight has {len(product.codes.dims)} axes"


def cast_weight(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        if "Cast" in product.path:
            yield named(product.node), "a Cast lies between its weight's DequantizeLinear and it"


def conv_weight(view: View) -> Iterator[Breach]:
    for product in weight_only(view, "Conv", "ConvTranspose"):
        yield named(product.node), f"a DequantizeLinear before a {product.node.op_type} is not fused"


def gather_weight(view: View) -> Iterator[Breach]:
    for product in weight_only(view, "Gather"):
        yield named(product.node), "the whole table is dequantized to look up some rows"


def matrix_addend(view: View) -> Iterator[Breach]:
    """Gemm, and what onnxruntime makes one, is fused with a vector only: with 8-bit activations as well."""
    for product in products(view):
        if product.node.op_type not in ("MatMul", "Gemm") or product.side != 1 or not product.weight.bits:
            continue
        name, _ = summed(product.node, view, product.scope)
        shape = view.shape(name, product.scope) if name else None
        columns = view.shape(product.node.output[0], product.scope)
        if shape is not None and (len(shape) != 1 or (columns and columns[-1] not in (None, shape[0]))):
            yield named(product.node), f"what is added has the shape {list(shape)}, which is not fused"


def clipped_between(view: View) -> Iterator[Breach]:
    """A Relu or Clip that is not gone when products are fused, because another product comes behind it."""
    for product in right_sides(view):
        name, last = summed(product.node, view, product.scope)
        rows = view.shape(product.node.input[0], product.scope)
        if name and product.node.op_type == "MatMul" and (rows is None or len(rows) != 2):
            continue
        clip = sole_reader((last if name else product.node).output[0], product.scope)
        if clip is not None and clip.op_type in CLIPPED and _feeds_product(clip, product.scope):
            yield named(product.node), f"the {clip.op_type} between it and the next product keeps it unfused"


def _feeds_product(node: onnx.NodeProto, scope: Scope) -> bool:
    return any(reader.op_type in ("MatMul", "Gemm") for reader in scope.readers.get(node.output[0], []))


def float_kernel(view: View) -> Iterator[Breach]:
    """Every weight-only product that onnxruntime would fuse, or leave to be computed on each call."""
    for product in weight_only(view, "MatMul", "Gemm", "Conv", "ConvTranspose"):
        yield named(product.node), "there is no kernel for weights in a DequantizeLinear"


def four_bit_zero_point(view: View) -> Iterator[Breach]:
    for product in weight_only(view, "MatMul", "Gemm"):
        if product.weight.code_type == onnx.TensorProto.INT4 and product.weight.zero_point is not None:
            yield named(product.weight.node), "int4 codes have a zero point, which takes the float path"


def float_path_block(view: View) -> Iterator[Breach]:
    """Blocks of 16 where 32 would do, and 4-bit blocks of 256."""
    for product in weight_only(view, "MatMul", "Gemm"):
        weight, rows = product.weight, product.reduced
        divided = rows is not None and rows == weight.axis and product.codes.dims[rows] % 32 == 0
        if (weight.block == 16 and divided) or (weight.block == 256 and weight.bits == 4):
            yield named(weight.node), f"blocks of {weight.block} take the float path"
    for node, _ in contributed(view, "MatMulNBits"):
        block, rows = (integer_attribute(node, name, 0) for name in ("block_size", "K"))
        bits = integer_attribute(node, "bits", 4)
        if (block == 16 and rows % 32 == 0) or (block == 256 and bits == 4):
            yield named(node), f"blocks of {block} take the float path"
