"""Breaches that keep a file from being loaded or read right: headers, types, MatMulNBits."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.defs
from onnx import NodeProto, TensorProto

from comq_onnx.graph.scopes import Scope, integer_attribute
from comq_onnx.targets.rules.products import (
    activation_of,
    contributed,
    eight_bit,
    products,
    right_sides,
    summed,
    weight_only,
)
from comq_onnx.targets.view import DEFAULT_DOMAINS, View, named

Breach = tuple[str, str]
VERSIONS = (("1.17", 9, 20), ("1.19", 10, 21), ("1.21", 10, 22), ("1.23", 11, 23)) + (
    ("1.24", 13, 25),
    ("1.26", 13, 26),
    ("1.32", 14, 28),
)
"""The versions of onnxruntime since which an IR version and an opset load: measured."""
LARGEST_IR, LARGEST_OPSET, FORMAL_OPSET = 13, 26, 21
WHOLE = "the model"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
TWO_BITS = (TensorProto.INT2, TensorProto.UINT2)
TYPED_OPSET = 21
"""The opset from which on a QuantizeLinear has a type attribute, which onnxruntime sets wrongly."""


def ir_too_new(view: View) -> Iterator[Breach]:
    ir = view.proto.ir_version
    if ir > LARGEST_IR:
        yield WHOLE, f"it has IR version {ir}, which {_since(1, ir)}; up to 1.31 it is at most {LARGEST_IR}"


def opset_too_new(view: View) -> Iterator[Breach]:
    if view.opset > LARGEST_OPSET:
        since = _since(2, view.opset)
        yield WHOLE, f"it has opset {view.opset}, which {since}; up to 1.31 it is at most {LARGEST_OPSET}"


def _since(column: int, number: int) -> str:
    version = next((row[0] for row in VERSIONS if int(row[column]) >= number), None)
    return f"needs onnxruntime {version}" if version else "no onnxruntime reads"


def opset_above_21(view: View) -> Iterator[Breach]:
    two_bits = any(t.data_type in TWO_BITS for scope in view.scopes for t in scope.graph.initializer)
    if view.opset > FORMAL_OPSET and not two_bits:
        yield WHOLE, f"it has opset {view.opset} and holds no 2-bit codes that would need it"


def two_bit_codes(view: View) -> Iterator[Breach]:
    for scope in view.scopes:
        for tensor in scope.graph.initializer:
            if tensor.data_type in TWO_BITS:
                yield tensor.name, "it has a 2-bit type"


def functions_of_other_opset(view: View) -> Iterator[Breach]:
    """onnxruntime reads a function at the opset of the model, and refuses what that does not know."""
    for function in view.proto.functions:
        if all(o.version == view.opset for o in function.opset_import if o.domain in DEFAULT_DOMAINS):
            continue
        for node in function.node:
            if node.domain in DEFAULT_DOMAINS and (odd := _unknown(node, view)):
                yield named(node), f"{node.op_type} of function {function.name} {odd}"


def _unknown(node: NodeProto, view: View) -> str:
    """What of a node the opset of the model does not know; empty where that is nothing."""
    schema = view.schema(node.op_type)
    if schema is None:
        return "is not in the opset of the model" if onnx.defs.has(node.op_type) and view.opset else ""
    odd = [a.name for a in node.attribute if a.name not in schema.attributes]
    return f"has {', '.join(odd)}" if odd else ""


def unusable_scales(view: View) -> Iterator[Breach]:
    for node, scope in view.nodes("QuantizeLinear", "DequantizeLinear"):
        values = view.numbers(view.constant(node.input[1], scope))
        if values is None:
            continue
        if not np.all(np.isfinite(values)):
            yield named(node), "a scale is not finite"
        elif node.op_type == "QuantizeLinear" and not np.all(values > 0):
            yield named(node), "it divides by a scale that is not positive"


def scales_not_positive(view: View) -> Iterator[Breach]:
    for node, scope in view.nodes("DequantizeLinear"):
        values = view.numbers(view.constant(node.input[1], scope))
        if values is not None and np.any(values <= 0):
            yield named(node), "a scale is not positive"


def signed_activation_of_gemm(view: View) -> Iterator[Breach]:
    """MatMul + Add on more than two axes: onnxruntime puts a QuantizeLinear of the wrong type before it."""
    for node, scope in view.nodes("MatMul") if view.opset >= TYPED_OPSET else ():
        rows, activation = view.shape(node.input[0], scope), activation_of(node, 0, view, scope)
        if rows is None or len(rows) < 3 or activation is None or activation.code_type != TensorProto.INT8:
            continue
        if summed(node, view, scope)[0]:
            yield named(node), f"int8 activations of {len(rows)} axes meet MatMul + Add at opset {view.opset}"


def two_bit_weight_of_eight_bit_product(view: View) -> Iterator[Breach]:
    for product in products(view):
        node, scope = product.node, product.scope
        if product.activation is None or product.weight.code_type not in TWO_BITS:
            continue
        readers = scope.readers.get(node.output[0], [])
        stored = bool(readers) and all(r.op_type == "QuantizeLinear" for r in readers)
        plain = node.op_type == "MatMul" and not summed(node, view, scope)[0]
        if plain or (node.op_type == "Conv" and stored):
            yield named(node), "2-bit codes meet 8-bit activations"


def output_type_of_half_scales(view: View) -> Iterator[Breach]:
    for product in weight_only(view, "MatMul"):
        scale = product.weight.scale
        wanted = integer_attribute(product.weight.node, "output_dtype", 0)
        if scale is not None and wanted in FLOATS and wanted != scale.data_type:
            yield named(product.weight.node), "its output_dtype is not the type of its scales"


def weight_scales_of_eight_bit_product(view: View) -> Iterator[Breach]:
    """onnxruntime fuses without a look at the axis, and the fused node fails when it runs."""
    for product, _ in eight_bit(view, "MatMul", "Conv"):
        weight, axes = product.weight, len(product.codes.dims)
        if weight.per_tensor or (product.node.op_type == "MatMul" and product.side == 0):
            continue
        if weight.block:
            yield named(weight.node), f"it has blocks of {weight.block} and meets 8-bit activations"
        elif product.node.op_type == "Conv":
            if weight.axis != 0:
                yield named(weight.node), f"its scales lie along axis {weight.axis}"
        elif axes != 2:
            yield named(weight.node), f"it has a scale per column and {axes} axes"
        elif weight.axis == product.reduced:
            yield named(weight.node), "its scales lie along the axis that is summed over"


def two_bit_columns(view: View) -> Iterator[Breach]:
    for product in right_sides(view):
        if product.weight.code_type in TWO_BITS and product.reduced == 0 and product.codes.dims[-1] % 4:
            yield named(product.node), f"it misreads 2-bit codes of {product.codes.dims[-1]} columns"


def _bits(node: NodeProto) -> int:
    return integer_attribute(node, "bits", 4)


def _zero_point_type(node: NodeProto, scope: Scope, view: View) -> int:
    return view.element_type(node.input[3], scope) if len(node.input) > 3 and node.input[3] else 0


def matmulnbits_bits(view: View) -> Iterator[Breach]:
    for node, _ in contributed(view, "MatMulNBits"):
        if _bits(node) not in (2, 4, 8):
            yield named(node), f"it has {_bits(node)} bits"


def matmulnbits_block(view: View) -> Iterator[Breach]:
    for node, _ in contributed(view, "MatMulNBits"):
        block = integer_attribute(node, "block_size", 0)
        if block & (block - 1) or not 16 <= block <= 256:
            yield named(node), f"it has blocks of {block}"


def matmulnbits_block_power(view: View) -> Iterator[Breach]:
    for node, _ in contributed(view, "MatMulNBits"):
        block = integer_attribute(node, "block_size", 0)
        if block & (block - 1) or block < 16:
            yield named(node), f"it has blocks of {block}"


def matmulnbits_float_zero_point_of_8_bits(view: View) -> Iterator[Breach]:
    for node, scope in contributed(view, "MatMulNBits"):
        if _bits(node) == 8 and _zero_point_type(node, scope, view) in FLOATS:
            yield named(node), "8-bit codes have float zero points"


def matmulnbits_float_zero_point(view: View) -> Iterator[Breach]:
    for node, scope in contributed(view, "MatMulNBits"):
        if _bits(node) != 8 and _zero_point_type(node, scope, view) in FLOATS:
            yield named(node), "its zero points are floats, for which there is no fast kernel"


def matmulnbits_any_float_zero_point(view: View) -> Iterator[Breach]:
    yield from matmulnbits_float_zero_point(view)
    yield from matmulnbits_float_zero_point_of_8_bits(view)


def matmulnbits_accuracy(view: View) -> Iterator[Breach]:
    for node, _ in contributed(view, "MatMulNBits"):
        level = integer_attribute(node, "accuracy_level", 0)
        if _bits(node) in (2, 8) and level != 4:
            yield named(node), f"{_bits(node)}-bit codes have a kernel at accuracy_level 4 only, not {level}"


def matmulnbits(view: View) -> Iterator[Breach]:
    for node, _ in contributed(view, "MatMulNBits"):
        yield named(node), "there is no kernel for MatMulNBits"
