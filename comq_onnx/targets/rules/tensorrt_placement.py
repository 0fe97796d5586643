"""Where QuantizeLinear and DequantizeLinear belong so that TensorRT's 8-bit kernels take them."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from comq_onnx.graph.scopes import Scope
from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules.linears import PRODUCTS, Linear, is_product, linears, type_name, uses
from comq_onnx.targets.rules.products import sole_reader
from comq_onnx.targets.rules.tensorrt_scales import FP8, Breaches, numbers, size_of
from comq_onnx.targets.view import DEFAULT_DOMAINS, MOVING, View, named

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
EIGHT_BITS = (TensorProto.INT8, FP8)
COMMUTING = (*MOVING, "Concat", "Expand", "Gather", "MaxPool", "Pad", "Relu", "Slice", "Split", "Tile")
"""Operators that TensorRT moves a DequantizeLinear past."""
FUSED_BEHIND = ("BatchNormalization", "Clip", "Relu")
CONVOLUTIONS = ("Conv", "ConvTranspose")


def is_dequantized(name: str, scope: Scope) -> bool:
    """Whether a DequantizeLinear, of whatever domain, is behind the tensor `name`."""
    seen: set[str] = set()
    pending = [name]
    while pending:
        name = pending.pop()
        node = scope.producer(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type.endswith("DequantizeLinear"):
            return True
        if node.op_type in COMMUTING:
            pending += node.input if node.op_type == "Concat" else node.input[:1]
    return False


def _unequal_pair(view: View) -> Breaches:
    for linear in linears(view):
        if linear.source is None or linear.repeats:
            continue
        before = numbers(linear.source.scale, linear.source, view)
        after = numbers(linear.scale, linear, view)
        if before is None or after is None:
            continue
        if before.size != after.size or not np.array_equal(before.ravel(), after.ravel(), equal_nan=True):
            yield linear.name, f"its scale is not that of {linear.source.name}"


def _transposed_channels(view: View) -> Breaches:
    for linear, node in _weights_of(view, "ConvTranspose"):
        if (size_of(linear.scale, linear, view) or 1) > 1:
            yield linear.name, f"it scales the weight of {named(node)} per channel"


def _weights_of(view: View, *ops: str) -> Iterator[tuple[Linear, onnx.NodeProto]]:
    """Each DequantizeLinear of a weight, with each of these operators that it reaches."""
    for linear in linears(view):
        if linear.quantizes or not linear.is_weight:
            continue
        for use in uses(linear.node.output[0], linear.scope, view):
            if use.node.op_type in ops and use.node.domain in DEFAULT_DOMAINS and use.position < 2:
                yield linear, use.node


def _weight_alone(view: View) -> Breaches:
    scope_of = {id(node): scope for node, scope in view.nodes(*PRODUCTS)}
    for linear, node in _weights_of(view, *PRODUCTS):
        scope = scope_of[id(node)]
        if linear.type in EIGHT_BITS and not all(is_dequantized(name, scope) for name in node.input[:2]):
            yield (
                named(node),
                f"its weight is {type_name(linear.type)} and its other input is not quantized",
            )


def _split_fusion(view: View) -> Breaches:
    for linear in linears(view):
        if linear.source is None:
            continue
        maker = linear.source.scope.producer(linear.source.node.input[0])
        if maker is None or maker.op_type not in CONVOLUTIONS:
            continue
        for reader, _ in view.readers(linear.node.output[0], linear.scope):
            if reader.op_type in FUSED_BEHIND and reader.domain in DEFAULT_DOMAINS:
                yield linear.name, f"it stands between {named(maker)} and {reader.op_type} {named(reader)}"


def _unfolded_norm(view: View) -> Breaches:
    for node, scope in view.nodes("BatchNormalization"):
        maker = scope.producer(node.input[0]) if node.input else None
        if maker is not None and maker.op_type in CONVOLUTIONS and _is_quantized(maker, scope):
            yield named(node), f"it follows {named(maker)}, whose weight is quantized"


def _is_quantized(node: onnx.NodeProto, scope: Scope) -> bool:
    return is_product(node) and any(is_dequantized(name, scope) for name in node.input[:2])


def _float_residual(view: View) -> Breaches:
    for node, scope in view.nodes("Add"):
        if any(view.is_constant(name, scope) or is_dequantized(name, scope) for name in node.input):
            continue
        makers = [scope.producer(name) for name in node.input]
        convolutions = [
            m
            for m in makers  # one that has other readers too is not fused with the Add
            if m
            and m.op_type in CONVOLUTIONS
            and _is_quantized(m, scope)
            and sole_reader(m.output[0], scope) is node
        ]
        if convolutions:
            yield named(node), f"it adds {named(convolutions[0])} to an input that is not quantized"


def _mixed(view: View) -> Breaches:
    kinds = {linear.type for linear in linears(view)}
    if all(kind in kinds for kind in EIGHT_BITS):
        yield "the model", "it has INT8 and FLOAT8E4M3FN codes"


def _float32(view: View) -> Breaches:
    """A graph without half precision; a few layers that stay FLOAT in one with it are somebody's choice."""
    made = ((name, scope) for node, scope in view.nodes() for name in node.output)
    if any(view.element_type(name, scope) in HALVES for name, scope in made):
        return
    wide = [
        node
        for node, scope in view.nodes(*PRODUCTS)
        if _is_quantized(node, scope)
        and node.output
        and view.element_type(node.output[0], scope) == TensorProto.FLOAT
    ]
    if wide:
        more = f" and {len(wide) - 1} more" if len(wide) > 1 else ""
        yield "the model", f"{named(wide[0])}{more} with quantized inputs give FLOAT"


RULES = (
    Rule(
        "TRT-W02",
        "warning",
        "QuantizeLinear and the DequantizeLinear behind it have one scale.",
        "give both the same scale",
        _unequal_pair,
    ),
    Rule(
        "TRT-W03",
        "warning",
        "A ConvTranspose weight has one scale: versions differ in the axis of its channels.",
        "quantize it per tensor",
        _transposed_channels,
    ),
    Rule(
        "TRT-W04",
        "warning",
        "A layer with an 8-bit weight has an 8-bit activation: there is no kernel for one of them.",
        "quantize the activation too, or keep the weight in float",
        _weight_alone,
    ),
    Rule(
        "TRT-W05",
        "warning",
        "Nothing stands between a convolution and the Relu, Clip or BatchNormalization fused with it.",
        "quantize behind that operator",
        _split_fusion,
    ),
    Rule(
        "TRT-W06",
        "warning",
        "A BatchNormalization behind a quantized convolution is folded into it.",
        "fold it before quantizing",
        _unfolded_norm,
    ),
    Rule(
        "TRT-W07",
        "warning",
        "The other input of an Add that alone reads a quantized convolution is quantized too.",
        "put QuantizeLinear and DequantizeLinear on it",
        _float_residual,
    ),
    Rule(
        "TRT-W08",
        "warning",
        "A file has INT8 or FLOAT8E4M3FN codes, not both.",
        "quantize all layers to one of them",
        _mixed,
    ),
    Rule(
        "TRT-W09",
        "warning",
        "What lies around quantized layers is not FLOAT: a strongly typed network runs it as it is written.",
        "convert the file to FLOAT16, scales included",
        _float32,
    ),
)
