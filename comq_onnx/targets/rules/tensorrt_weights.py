"""What TensorRT asks of blocks, axes and INT4."""

from collections.abc import Iterator

from onnx import TensorProto, helper

from comq_onnx.graph.scopes import integer_attribute
from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules.linears import Linear, Use, linears, type_name, uses
from comq_onnx.targets.rules.tensorrt_scales import Breaches, size_of
from comq_onnx.targets.view import DEFAULT_DOMAINS, View, named

INT4 = TensorProto.INT4
INT4_BLOCKS = (64, 128)
INT4_READERS = ("Gather", "Gemm", "MatMul")
NARROW = (INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2)


def _weights(view: View) -> Iterator[Linear]:
    """Linears of constants, each pair once."""
    return (linear for linear in linears(view) if linear.is_weight and not linear.repeats)


def _blocked_int8(view: View) -> Breaches:
    for linear in linears(view):
        if linear.block and linear.type == TensorProto.INT8 and not linear.repeats:
            yield linear.name, f"it has INT8 codes in blocks of {linear.block}"


def _blocked_rank(view: View) -> Breaches:
    for linear in _weights(view):
        shape = view.shape(linear.node.input[0], linear.scope)
        if linear.block and shape is not None and len(shape) != 2:
            yield linear.name, f"it scales a weight of {len(shape)} axes in blocks"


def _ragged_blocks(view: View) -> Breaches:
    for linear in _weights(view):
        data = view.shape(linear.node.input[0], linear.scope)
        scale = view.shape(linear.scale, linear.scope)
        if not linear.block or data is None or scale is None:
            continue
        axis = linear.axis(len(data))
        if not 0 <= axis < len(data) or len(data) != len(scale):
            yield linear.name, f"scales of {list(scale)} do not fit {list(data)}"
            continue
        whole = [n if i != axis or n is None else n / linear.block for i, n in enumerate(data)]
        if any(n is not None and m is not None and n != m for n, m in zip(whole, scale, strict=True)):
            yield linear.name, f"scales of {list(scale)} do not fit {list(data)} in blocks of {linear.block}"


def _int4_block_size(view: View) -> Breaches:
    for linear in linears(view):
        if linear.type == INT4 and linear.block and linear.block not in INT4_BLOCKS and not linear.repeats:
            yield linear.name, f"its block size is {linear.block}"


def _axis_length(view: View) -> Breaches:
    for linear in _weights(view):
        data = view.shape(linear.node.input[0], linear.scope)
        size = size_of(linear.scale, linear, view)
        if linear.block or data is None or size is None or size == 1:
            continue
        scale = view.shape(linear.scale, linear.scope) or ()
        axis = linear.axis(len(data))
        if len(scale) != 1 or not 0 <= axis < len(data):
            yield linear.name, f"scales of {list(scale)} do not fit axis {axis} of {list(data)}"
        elif data[axis] is not None and data[axis] != size:
            yield linear.name, f"it has {size} scales for the {data[axis]} entries of axis {axis}"


def _int4_without_blocks(view: View) -> Breaches:
    for linear in _weights(view):
        if linear.type == INT4 and not linear.block:
            yield linear.name, "its INT4 codes have no blocks"


def _int4_odd(view: View) -> Breaches:
    for linear in _weights(view):
        shape = view.shape(linear.node.input[0], linear.scope)
        if linear.type == INT4 and shape and shape[-1] is not None and shape[-1] % 2:
            yield linear.name, f"its last axis has {shape[-1]} INT4 codes"


def _int4_reader(view: View) -> Breaches:
    for linear in linears(view):
        if linear.type != INT4 or linear.quantizes or not linear.is_weight:
            continue
        for use in uses(linear.node.output[0], linear.scope, view):
            if use.node.op_type not in INT4_READERS or use.node.domain not in DEFAULT_DOMAINS:
                yield linear.name, f"its INT4 weight is read by {use.node.op_type} {named(use.node)}"


def _channel_axis(view: View) -> Breaches:
    for linear in linears(view):
        size = size_of(linear.scale, linear, view)
        shape = view.shape(linear.node.input[0], linear.scope)
        if linear.quantizes or not linear.is_weight or linear.block or size in (None, 1) or not shape:
            continue
        axis = linear.axis(len(shape))
        for use in uses(linear.node.output[0], linear.scope, view):
            right, found = _channels(use, len(shape)), _moved(axis, use, len(shape))
            if right is not None and found is not None and found != right:
                yield (
                    linear.name,
                    f"its scales lie along axis {axis}, which is not the output channels of "
                    f"{use.node.op_type} {named(use.node)}",
                )


def _channels(use: Use, rank: int) -> int | None:
    """The axis of a weight of `rank` axes that is its output channels; None where it is no weight."""
    if use.node.domain not in DEFAULT_DOMAINS or use.position > 1 or rank < 2:
        return None
    if use.node.op_type in ("Conv", "ConvTranspose"):
        return (0 if use.node.op_type == "Conv" else 1) if use.position == 1 else None
    if use.node.op_type == "MatMul":
        return rank - 1 if use.position == 1 else rank - 2
    if use.node.op_type == "Gemm":
        transposed = integer_attribute(use.node, ("transA", "transB")[use.position], 0)
        return int(bool(transposed) != (use.position == 1))
    return None


def _moved(axis: int, use: Use, rank: int) -> int | None:
    """Where `axis` is after the operators on the way; None where that cannot be told."""
    for node in use.path:
        if node.op_type == "Transpose":
            order = next(
                (list(helper.get_attribute_value(a)) for a in node.attribute if a.name == "perm"), None
            )
            order = order if order is not None else list(range(rank))[::-1]
            if axis not in order:
                return None
            axis = order.index(axis)
        elif node.op_type not in ("Cast", "Identity"):
            return None
    return axis


def _narrow_elsewhere(view: View) -> Breaches:
    for node, scope in view.nodes("Cast"):
        tensor = view.constant(node.input[0], scope) if node.input else None
        if tensor is not None and tensor.data_type in NARROW:
            yield named(node), f"it reads {type_name(tensor.data_type)} codes"


RULES = (
    Rule(
        "TRT-E13",
        "error",
        "Only INT4, FLOAT8E4M3FN and FLOAT4E2M1 codes have scales for blocks.",
        "quantize INT8 per channel, or to INT4 in blocks",
        _blocked_int8,
    ),
    Rule(
        "TRT-E14",
        "error",
        "A weight that is scaled in blocks has two axes.",
        "reshape it, or quantize it per channel in INT8",
        _blocked_rank,
    ),
    Rule(
        "TRT-E15",
        "error",
        "Exactly one axis is divided into blocks, and into whole ones.",
        "choose a block size that divides the axis, with as many scales as blocks",
        _ragged_blocks,
    ),
    Rule(
        "TRT-E16",
        "error",
        "An INT4 block has 64 or 128 codes.",
        "quantize again with a block size of 64 or 128",
        _int4_block_size,
    ),
    Rule(
        "TRT-E17",
        "error",
        "Scales of channels are one axis, as long as the axis of the weight that they belong to.",
        "give it one scale for each entry of its axis",
        _axis_length,
    ),
    Rule(
        "TRT-E18",
        "error",
        "INT4 codes have scales for blocks.",
        "repeat each channel's scale for blocks of 64 or 128 rows",
        _int4_without_blocks,
    ),
    Rule(
        "TRT-E19",
        "error",
        "The last axis of an INT4 weight is even.",
        "keep this weight in float or INT8",
        _int4_odd,
    ),
    Rule(
        "TRT-E20",
        "error",
        "An INT4 weight is read by MatMul, Gemm or Gather, through Transpose, Reshape or Cast at most.",
        "quantize it to INT8 with activations, or keep it in float: there is no INT4 convolution",
        _int4_reader,
    ),
    Rule(
        "TRT-E21",
        "error",
        "Channels are axis 0 of a Conv weight, 1 of ConvTranspose, the last of MatMul, "
        "transB ? 0 : 1 of Gemm.",
        "quantize along the output channels",
        _channel_axis,
    ),
    Rule(
        "TRT-E22",
        "error",
        "Codes of 4 or 2 bits are read by DequantizeLinear, not by Cast.",
        "write INT4 codes with DequantizeLinear in blocks, or keep the weight in float",
        _narrow_elsewhere,
    ),
)
