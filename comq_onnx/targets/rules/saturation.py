"""8-bit products that overflow on x64 processors without VNNI.

There the sum of two neighbouring products of a uint8 activation and an int8 weight is kept in 16 bits. Rows 0
and 1 of the reduction are one pair, 2 and 3 the next. int8 activations are turned into uint8 ones first.

Measured by ``tools/check_saturation.py`` in onnxruntime 1.32 as an emulated Haswell, which has AVX2 alone:
MatMul, Gemm, MatMulInteger, and Conv unless it is depthwise, in just these pairs. Weights of -64 to 63 are
exact, and so are MatMulNBits and, with any weights, an emulated Nehalem, which has no AVX2.
"""

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from comq_onnx.graph.scopes import Scope
from comq_onnx.targets.rules.loading import Breach
from comq_onnx.targets.rules.products import BITS, Product, eight_bit
from comq_onnx.targets.view import View, named

LARGEST_CODE = 255
LIMITS = np.iinfo(np.int16)


def saturated_pairs(rows: np.ndarray) -> int:
    """Pairs of neighbours along axis 0 of int8 codes whose products with 255 do not fit 16 bits in sum."""
    even = rows[: len(rows) // 2 * 2].astype(np.int32)
    sums = LARGEST_CODE * (even[0::2] + even[1::2])
    return int(np.count_nonzero((sums > LIMITS.max) | (sums < LIMITS.min)))


def saturation(view: View) -> Iterator[Breach]:
    for product, _ in eight_bit(view, "MatMul", "Gemm", "Conv"):
        if product.weight.code_type == TensorProto.INT8 and not product.depthwise and product.side == 1:
            codes = _integers(product.codes, view)
            if codes is not None:
                yield from _told(product.node, _rows(product, codes))
    for node, scope in view.nodes("MatMulInteger"):
        codes = _integer_codes(node, view, scope)
        if codes is not None:
            yield from _told(node, np.moveaxis(codes, -2, 0) if codes.ndim > 1 else codes)


def _told(node: NodeProto, rows: np.ndarray) -> Iterator[Breach]:
    count, pairs = saturated_pairs(rows), len(rows) // 2 * int(np.prod(rows.shape[1:]))
    if count:
        yield named(node), f"{count} of {pairs} pairs of weights may overflow on x64 without VNNI"


def _rows(product: Product, codes: np.ndarray) -> np.ndarray:
    """The codes with the summed axis first; that of a Conv runs over positions, then over channels."""
    if product.node.op_type == "Conv" and codes.ndim > 1:
        return np.moveaxis(codes, 1, -1).reshape(len(codes), -1).T
    if codes.ndim < 2:
        return codes
    return np.moveaxis(codes, -2 if product.reduced in (None, 0) else -1, 0)


def _integer_codes(node: NodeProto, view: View, scope: Scope) -> np.ndarray | None:
    """The int8 codes of a MatMulInteger's right side; None where they are no constant."""
    maker, name = scope.producer(node.input[1]), node.input[1]
    if maker is not None and maker.op_type == "Cast":
        name = maker.input[0]
    tensor = view.constant(name, scope)
    if tensor is None or (tensor.data_type != TensorProto.INT8 and name == node.input[1]):
        return None
    return _integers(tensor, view)


def _integers(tensor: TensorProto, view: View) -> np.ndarray | None:
    """Codes of one axis or more; None where there are none that can be read."""
    codes = view.values(tensor) if tensor.data_type in BITS else None
    return codes if codes is not None and codes.ndim else None
