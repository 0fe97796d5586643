"""Weights of layers that were turned into operators of integers: MatMulInteger and MatMulNBits.

Read by the definitions of these operators alone: that of ONNX, and that of onnxruntime's contrib operators.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from comq_onnx.errors import ComqError
from comq_onnx.graph.scopes import Scope, integer_attribute

DOMAIN = "com.microsoft"
WEIGHT_ZERO, CODES, SCALES, ZEROS = 3, 1, 2, 3


def nbits_weight(node: onnx.NodeProto, parts: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Unsigned codes ``[K, N]`` of a MatMulNBits, and the values they stand for in float64.

    `parts` are its constant inputs by place. Codes lie ``[N, blocks, bytes]``, the first in the lowest bits;
    a block has a zero point of ``2^(bits - 1)`` unless there is a table of them, packed for each column.
    """
    bits, rows = integer_attribute(node, "bits", 4), integer_attribute(node, "K", 0)
    cols, block = integer_attribute(node, "N", 0), integer_attribute(node, "block_size", 0)
    if not (rows and cols and block) or 8 % bits:
        raise ComqError(
            f"its attributes are K {rows}, N {cols}, bits {bits}, blocks of {block}", where=node.name
        )
    blocks = -(-rows // block)
    codes = lowest_first(parts[CODES].reshape(cols, blocks, -1), bits)[..., :block]
    zeros = np.full((cols, blocks), 1 << (bits - 1))
    if ZEROS in parts:
        zeros = lowest_first(parts[ZEROS].reshape(cols, -1), bits)[:, :blocks]
    values = (codes - zeros[..., None]) * parts[SCALES].astype(np.float64).reshape(cols, blocks, 1)
    return codes.reshape(cols, -1)[:, :rows].T, values.reshape(cols, -1)[:, :rows].T


def lowest_first(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes of `bits` as they lie in bytes along the last axis, the first in the lowest bits; int64."""
    each = [(packed.astype(np.int64) >> shift) % (1 << bits) for shift in range(0, 8, bits)]
    return np.stack(each, axis=-1).reshape(*packed.shape[:-1], -1)


def scale_behind(node: onnx.NodeProto, scope: Scope) -> list[str]:
    """What the sums of a MatMulInteger are multiplied by: names of factors, through Casts and Muls.

    Those of the activation are among them; ComqError where nothing is multiplied.
    """
    name = node.output[0]
    while len(scope.readers.get(name, ())) == 1:
        reader = scope.readers[name][0]
        if reader.op_type == "Mul":
            return factors(next(read for read in reader.input if read != name), scope)
        if reader.op_type != "Cast":
            break
        name = reader.output[0]
    raise ComqError("the sums of its products are not scaled", where=node.name)


def factors(name: str, scope: Scope) -> list[str]:
    """Names of what is multiplied to make a tensor."""
    maker = scope.producer(name)
    if maker is None or maker.op_type != "Mul":
        return [name]
    return [factor for read in maker.input for factor in factors(read, scope)]


def lookup_shape(name: str, looked_up: tuple[str, int], scope: Scope) -> list[int]:
    """The numbers of a shape that is joined from constants and the shape of a lookup's indices.

    `looked_up` is the name of the indices and how many of them there shall be, in one axis. ComqError where
    anything else takes part.
    """
    tensor, node = scope.tensor(name), scope.producer(name)
    if tensor is not None:
        return [int(size) for size in numpy_helper.to_array(tensor).reshape(-1)]
    if node is not None and node.op_type == "Concat":
        return [size for part in node.input for size in lookup_shape(part, looked_up, scope)]
    if node is not None and node.op_type == "Shape" and node.input[0] == looked_up[0]:
        return [looked_up[1]]
    raise ComqError("it is not computed from the shape of the indices", where=name)
