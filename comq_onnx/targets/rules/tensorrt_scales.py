"""What TensorRT asks of scales, zero points and types: its parser's checks and NvInfer.h's."""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from comq_onnx.graph.scopes import integer_attribute
from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules.linears import Linear, linears, type_name
from comq_onnx.targets.view import View

Breaches = Iterator[tuple[str, str]]

FP8, FP4 = TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1
CODES = (TensorProto.INT8, TensorProto.INT4, FP8, FP4)
SCALES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _own(view: View) -> Iterator[Linear]:
    """Those whose scale and zero point were not already looked at in the QuantizeLinear before them."""
    return (linear for linear in linears(view) if not linear.repeats)


def _scale_varies(view: View) -> Breaches:
    for linear in _own(view):
        if view.is_constant(linear.scale, linear.scope) or _is_dynamic(linear):
            continue
        yield linear.name, f"its scale {linear.scale!r} is computed when the model runs"


def _is_dynamic(linear: Linear) -> bool:
    """Whether its scale comes from one of TensorRT's own operators, which quantize in blocks on the fly."""
    maker = linear.scope.producer(linear.scale)
    if maker is not None and maker.op_type == "DequantizeLinear":  # scales of FP4 are themselves quantized
        maker = linear.scope.producer(maker.input[0]) if maker.input else None
    return maker is not None and maker.domain.startswith("trt")


def _scale_not_positive(view: View) -> Breaches:
    for linear in _own(view):
        scale = numbers(linear.scale, linear, view)
        if scale is None:
            continue
        bad = np.count_nonzero(~(np.isfinite(scale) & (scale > 0)))
        if bad:
            yield linear.name, f"{bad} of its {scale.size} scales are not positive and finite"


def _scale_type(view: View) -> Breaches:
    for linear in _own(view):
        kind = view.element_type(linear.scale, linear.scope)
        allowed = (*SCALES, TensorProto.FLOAT8E8M0) if linear.type == FP8 else SCALES
        if kind and kind not in allowed:
            yield linear.name, f"its scale is {type_name(kind)}"


def _zero_point_varies(view: View) -> Breaches:
    for linear in _own(view):
        if linear.zero_point and not view.is_constant(linear.zero_point, linear.scope):
            yield linear.name, f"its zero point {linear.zero_point!r} is computed when the model runs"


def _zero_point_not_zero(view: View) -> Breaches:
    for linear in _own(view):
        if linear.type not in CODES or not linear.zero_point:
            continue
        values = numbers(linear.zero_point, linear, view)
        if values is not None and (bad := np.count_nonzero(values)):
            yield linear.name, f"{bad} of its {values.size} zero points are not 0"


def _zero_point_size(view: View) -> Breaches:
    for linear in _own(view):
        scale = size_of(linear.scale, linear, view)
        zeros = size_of(linear.zero_point, linear, view) if linear.zero_point else None
        if scale is not None and zeros is not None and scale != zeros:
            yield linear.name, f"it has {zeros} zero points and {scale} scales"


def size_of(name: str, linear: Linear, view: View) -> int | None:
    """Elements of a tensor that `linear` reads; None where they cannot be told."""
    shape = view.shape(name, linear.scope)
    if shape is None or None in shape:
        return None
    return int(np.prod([n for n in shape if n is not None], dtype=np.int64))


def numbers(name: str, linear: Linear, view: View) -> np.ndarray | None:
    """A constant that `linear` reads, in float64; None where it has no values that are numbers."""
    values = view.value(name, linear.scope)
    return None if values is None else values.astype(np.float64)


def _type_is_left_open(view: View) -> Breaches:
    for linear in linears(view):
        said = linear.zero_point or integer_attribute(linear.node, "output_dtype", 0)
        if linear.quantizes and not said:
            yield linear.name, "it has neither a zero point nor output_dtype, and so makes UINT8"


def _type_is_foreign(view: View) -> Breaches:
    for linear in linears(view):
        if linear.source is None and linear.type and linear.type not in CODES:
            what = "a bias in INT32" if linear.type == TensorProto.INT32 else type_name(linear.type)
            yield linear.name, f"its codes are {what}"


def _activation_has_axes(view: View) -> Breaches:
    for linear in _own(view):
        size = size_of(linear.scale, linear, view)
        if not linear.is_weight and not linear.block and size is not None and size != 1:
            yield linear.name, f"it scales an activation with {size} scales"


def _activation_in_int4(view: View) -> Breaches:
    for linear in linears(view):
        if linear.source is None and not linear.is_weight and linear.type == TensorProto.INT4:
            yield linear.name, "it holds an activation in INT4"


RULES = (
    Rule(
        "TRT-E03",
        "error",
        "The scale of a QuantizeLinear or DequantizeLinear is a constant.",
        "calibrate, and store the scale as an initializer",
        _scale_varies,
    ),
    Rule(
        "TRT-E04",
        "error",
        "Scales are positive and finite.",
        "give channels that are all zero a scale of 1, and calibrate again where a range is not finite",
        _scale_not_positive,
    ),
    Rule(
        "TRT-E05",
        "error",
        "Scales are FLOAT, FLOAT16 or BFLOAT16 (FLOAT8E8M0 for FP8 codes).",
        "store the scale in the type of the float graph",
        _scale_type,
    ),
    Rule(
        "TRT-E06",
        "error",
        "A zero point is a constant.",
        "store zeros as an initializer",
        _zero_point_varies,
    ),
    Rule(
        "TRT-E07",
        "error",
        "Zero points are all 0: quantization is symmetric.",
        "quantize symmetrically",
        _zero_point_not_zero,
    ),
    Rule(
        "TRT-E08",
        "error",
        "There are as many zero points as scales.",
        "give the zero point the shape of the scale",
        _zero_point_size,
    ),
    Rule(
        "TRT-E09",
        "error",
        "A QuantizeLinear says its type, by a zero point or by output_dtype; without them ONNX means UINT8.",
        "give it an INT8 zero point of 0, or output_dtype (opset 21)",
        _type_is_left_open,
    ),
    Rule(
        "TRT-E10",
        "error",
        "Codes are INT8, INT4, FLOAT8E4M3FN or FLOAT4E2M1; no UINT8, UINT4, INT2, INT16, and no INT32 bias.",
        "quantize to symmetric INT8 or INT4, and keep the bias in float",
        _type_is_foreign,
    ),
    Rule(
        "TRT-E11",
        "error",
        "An activation has one scale.",
        "quantize activations per tensor",
        _activation_has_axes,
    ),
    Rule(
        "TRT-E12",
        "error",
        "INT4 is for weights, not for activations.",
        "keep the activation in float or INT8",
        _activation_in_int4,
    ),
)
