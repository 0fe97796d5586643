"""Breaches by products with 8-bit activations: what keeps runtimes from their integer kernels."""

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from comq_onnx.graph.scopes import Scope
from comq_onnx.targets.rules.loading import Breach
from comq_onnx.targets.rules.products import (
    Linear,
    Product,
    eight_bit,
    float_attribute,
    products,
    sole_reader,
    summed,
)
from comq_onnx.targets.view import View, named

BIAS_TOLERANCE = 1e-5
"""Relative: what rounding a product of two float32 numbers may do."""
PASSED = ("Relu", "Clip", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""What may lie between a Conv and its QuantizeLinear: absorbed, or moved out of the way."""
SIGNED_PRODUCTS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm")
CODES: dict[int, tuple[int, int]] = {TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255)}


def _static(view: View, *ops: str) -> Iterator[tuple[Product, Linear]]:
    """8-bit right sides (for MatMul and Gemm) whose activations have a constant scale."""
    return ((p, a) for p, a in eight_bit(view, *ops) if not a.dynamic and p.side == 1)


def stored_by(name: str, scope: Scope) -> NodeProto | None:
    """The QuantizeLinear that takes a product's output, alone or through what it absorbs."""
    outputs = {output.name for output in scope.graph.output}
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        readers = scope.readers.get(name, [])
        if readers and name not in outputs and all(r.op_type == "QuantizeLinear" for r in readers):
            return readers[0]
        reader = sole_reader(name, scope)
        if reader is None or reader.op_type not in PASSED or not reader.output:
            return None
        name = reader.output[0]
    return None


def bias_scale(view: View) -> Iterator[Breach]:
    """QGemm adds the codes of the bias to the integer sums, whatever their scale is."""
    for product, activation in _static(view, "Gemm", "MatMul"):
        yield from _bias_scale(product, activation, summed(product.node, view, product.scope)[0], view)


def bias_scale_of_conv(view: View) -> Iterator[Breach]:
    for product, activation in _static(view, "Conv"):
        name = product.node.input[2] if len(product.node.input) > 2 else ""
        yield from _bias_scale(product, activation, name, view)


def _bias_scale(product: Product, activation: Linear, name: str, view: View) -> Iterator[Breach]:
    maker = product.scope.producer(name) if name else None
    if maker is None or maker.op_type != "DequantizeLinear":
        return
    scales = (view.constant(maker.input[1], product.scope), activation.scale, product.weight.scale)
    found, left, right = (view.numbers(scale) for scale in scales)
    if found is None or left is None or right is None:
        return
    found, left, right = found.reshape(-1), left.reshape(-1), right.reshape(-1)
    if left.size != 1 or found.size not in (1, right.size):
        return
    same = np.isclose(found, left * right, rtol=BIAS_TOLERANCE, atol=0)
    if not np.all(same):
        wrong = np.count_nonzero(~same)
        yield named(product.node), f"{wrong} of {same.size} scales of its int32 bias are not sx * sw"


def conv_without_output(view: View) -> Iterator[Breach]:
    for product, _ in _static(view, "Conv"):
        if stored_by(product.node.output[0], product.scope) is None:
            yield named(product.node), "its output is not quantized, so that it runs in float"


def gemm_without_zero_point(view: View) -> Iterator[Breach]:
    for product, _ in _static(view, "Gemm", "MatMul"):
        is_gemm = product.node.op_type == "Gemm" or summed(product.node, view, product.scope)[0]
        if is_gemm and product.weight.zero_point is None:
            yield named(product.weight.node), "the weight of a Gemm has no zero point: float, or it fails"


def gemm_with_float_bias(view: View) -> Iterator[Breach]:
    for product, _ in _static(view, "Gemm", "MatMul"):
        name, last = summed(product.node, view, product.scope)
        maker = product.scope.producer(name) if name else None
        shape = view.shape(name, product.scope) if name else None
        if shape is None or len(shape) != 1 or (maker is not None and maker.op_type == "DequantizeLinear"):
            continue
        if stored_by(last.output[0], product.scope) is None:
            yield named(product.node), "it has a float bias and its output is not quantized: it runs in float"


def scaled_integer_gemm(view: View) -> Iterator[Breach]:
    for product, _ in _static(view, "Gemm"):
        node = product.node
        odd = [f"{name} = {v:g}" for name in ("alpha", "beta") if (v := float_attribute(node, name, 1)) != 1]
        if odd and len(node.input) > 2 and node.input[2]:
            yield named(node), f"{' and '.join(odd)} with a bias: it runs in float"


def range_not_absorbed(view: View) -> Iterator[Breach]:
    """A Relu or Clip is absorbed where the codes cannot hold what it cuts off; else the product is float."""
    for product, _ in _static(view, "Conv", "Gemm", "MatMul"):
        scope = product.scope
        last = summed(product.node, view, scope)[1] if product.node.op_type != "Conv" else product.node
        clip = sole_reader(last.output[0], scope)
        if clip is None or clip.op_type not in ("Relu", "Clip"):
            continue
        readers = scope.readers.get(clip.output[0], [])
        quantize = sole_reader(clip.output[0], scope) if len(readers) == 1 else None
        if quantize is not None and quantize.op_type == "QuantizeLinear":
            yield from _outside(clip, quantize, view, scope)


def _outside(clip: NodeProto, quantize: NodeProto, view: View, scope: Scope) -> Iterator[Breach]:
    scale = view.constant(quantize.input[1], scope)
    zero = view.constant(quantize.input[2], scope) if len(quantize.input) > 2 else None
    step, offset = _number(scale, view), _number(zero, view)
    if step is None or offset is None or zero is None or zero.data_type not in CODES or not step > 0:
        return
    low, high = (_limit(clip, index, view, scope) for index in (1, 2))
    lowest, highest = CODES[zero.data_type]
    if np.round(low / step) + offset > lowest or np.round(high / step) + offset < highest:
        yield named(quantize), f"its codes hold more than the {clip.op_type} lets through: not absorbed"


def _number(tensor: TensorProto | None, view: View) -> float | None:
    """The one number that a constant holds; None where it is none or holds others."""
    values = view.numbers(tensor)
    return float(values.reshape(())) if values is not None and values.size == 1 else None


def _limit(clip: NodeProto, index: int, view: View, scope: Scope) -> float:
    if clip.op_type == "Relu":
        return 0.0 if index == 1 else np.inf
    nothing = -np.inf if index == 1 else np.inf
    if len(clip.input) > index and clip.input[index]:
        limit = _number(view.constant(clip.input[index], scope), view)
        return nothing if limit is None else limit
    return float_attribute(clip, "min" if index == 1 else "max", nothing)


def unsigned_weight(view: View) -> Iterator[Breach]:
    for product, _ in eight_bit(view, "Conv", "Gemm", "MatMul"):
        slow = product.depthwise and not product.weight.per_tensor
        if product.weight.code_type == TensorProto.UINT8 and not slow:
            yield named(product.node), "uint8 weights run at half the speed of int8 weights"


def unsigned_depthwise(view: View) -> Iterator[Breach]:
    for product, _ in eight_bit(view, "Conv"):
        unsigned = product.weight.code_type == TensorProto.UINT8
        if unsigned and product.depthwise and not product.weight.per_tensor:
            yield named(product.node), "uint8 weights per channel in a depthwise Conv run at 0.02 of float"


def small_codes(view: View) -> Iterator[Breach]:
    """4- and 2-bit weights that meet 8-bit activations as they are."""
    for product in products(view):
        if product.activation is None or product.weight.bits == 8 or product.node.op_type == "Gather":
            continue
        if product.weight.bits == 4 or not _refused(product, view):
            yield named(product.node), f"{product.weight.bits}-bit codes meet 8-bit activations: not fused"


def _refused(product: Product, view: View) -> bool:
    """Whether 2-bit codes are worse than slow here."""
    if product.node.op_type == "MatMul":
        return not summed(product.node, view, product.scope)[0]
    return product.node.op_type == "Conv" and stored_by(product.node.output[0], product.scope) is not None


def four_bit_codes(view: View) -> Iterator[Breach]:
    for product in products(view):
        if product.activation is not None and product.weight.bits == 4:
            yield named(product.node), "4-bit codes meet 8-bit activations: slower than float"


def signed_operators(view: View) -> Iterator[Breach]:
    for node, scope in view.nodes():
        signed = bool(node.input) and view.element_type(node.input[0], scope) == TensorProto.INT8
        if signed and node.op_type in SIGNED_PRODUCTS:
            yield named(node), f"{node.op_type} on int8 activations runs 20 to 40 times slower than on uint8"


def dynamic_with_bias(view: View) -> Iterator[Breach]:
    for product, activation in eight_bit(view, "MatMul", "Gemm"):
        if activation.dynamic and summed(product.node, view, product.scope)[0]:
            yield named(product.node), "a bias keeps the dynamically quantized product from being fused"


def conv_transpose(view: View) -> Iterator[Breach]:
    for product, _ in eight_bit(view, "ConvTranspose"):
        yield named(product.node), "a ConvTranspose has no integer kernel"


def depthwise(view: View) -> Iterator[Breach]:
    for product, _ in eight_bit(view, "Conv"):
        if product.depthwise:
            yield named(product.node), "a quantized depthwise Conv runs at 0.1 to 0.3 of float"


def integer_operators(view: View) -> Iterator[Breach]:
    for node, _ in view.nodes("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"):
        yield named(node), f"{node.op_type} is decomposed to float"


def computed_codes(view: View) -> Iterator[Breach]:
    """Codes unpacked by bit operations in the graph: the zero point is subtracted in uint8."""
    for node, scope in view.nodes("DequantizeLinear"):
        zero_point = node.input[2] if len(node.input) > 2 else ""
        unsigned = bool(zero_point) and view.element_type(zero_point, scope) == TensorProto.UINT8
        if unsigned and _unpacks(node.input[0], scope):
            yield named(node), "it subtracts a zero point from uint8 codes that bit operations compute"


def _unpacks(name: str, scope: Scope) -> bool:
    """Whether bit operations computed a tensor, before operators that only move it."""
    moved = ("Concat", "Reshape", "Transpose", "Cast", "Unsqueeze", "Squeeze", "Slice")
    seen: set[str] = set()
    pending = [name]
    while pending:
        name = pending.pop()
        node = None if name in seen else scope.producer(name)
        seen.add(name)
        if node is not None and node.op_type in ("BitShift", "BitwiseAnd", "BitwiseOr", "Mod", "Div"):
            return True
        if node is not None and node.op_type in moved:
            pending += node.input
    return False
