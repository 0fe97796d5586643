"""Pairs of weights that overflow, against a search of every pair of rows."""

import numpy as np
import pytest
from onnx import numpy_helper
from targets.rules.files import file
from targets.rules.wrong import CONV, IMAGE, K8, MATRIX, OUT, U8, W8, X8, Y8, ZEROED

from comq_onnx.targets.rules.saturation import saturated_pairs, saturation
from comq_onnx.targets.view import View


def by_search(rows):
    count = 0
    for k in range(0, len(rows) - 1, 2):
        for column in range(rows.shape[1]):
            worst = 255 * (int(rows[k, column]) + int(rows[k + 1, column]))
            count += not -(2**15) <= worst < 2**15
    return count


def put(proto, codes):
    next(t for t in proto.graph.initializer if t.name == "q").CopyFrom(numpy_helper.from_array(codes, "q"))
    return [why for _, why in saturation(View(proto))]


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_pairs(rows):
    codes = np.random.default_rng(rows).integers(-128, 128, (rows, 5), dtype=np.int8)
    assert saturated_pairs(codes) == by_search(codes)


@pytest.mark.parametrize(("pair", "count"), [((64, 64), 0), ((64, 65), 1), ((-64, -64), 0), ((-65, -64), 1)])
def test_the_largest_pair_that_fits(pair, count):
    assert saturated_pairs(np.array([[pair[0]], [pair[1]]], np.int8)) == count


def test_rows_of_a_matrix_and_of_a_transposed_one():
    codes = np.random.default_rng(0).integers(-128, 128, (64, 32), dtype=np.int8)
    said = f"{by_search(codes)} of {32 * 32} pairs of weights may overflow on x64 without VNNI"
    assert put(file(MATRIX, f"{X8} {ZEROED} y = MatMul(xd, w)", **U8, **W8), codes) == [said]
    turned = f"{X8} w = DequantizeLinear<axis=0>(q, s, z) y = Gemm<transB=1>(xd, w)"
    assert put(file(MATRIX, turned, **U8, **W8), codes.T.copy()) == [said]
    assert put(file("uint8[M,64] x -> int32[M,32] y", "y = MatMulInteger(x, q)", q="int8[64,32]"), codes) == [
        said
    ]


def test_rows_of_a_conv_are_positions_and_channels_within():
    codes = np.random.default_rng(1).integers(-128, 128, (8, 16, 3, 3), dtype=np.int8)
    rows = np.array(
        [[codes[m, c, y, x] for m in range(8)] for y in range(3) for x in range(3) for c in range(16)]
    )
    (said,) = put(file(IMAGE, f"{X8} {CONV} {Y8}", **U8, **OUT, **K8), codes)
    assert said.startswith(f"{by_search(rows)} of {72 * 8} ")


def test_small_codes_in_a_large_type_fit():
    codes = np.random.default_rng(2).integers(-8, 8, (64, 32), dtype=np.int8)
    assert put(file(MATRIX, f"{X8} {ZEROED} y = MatMul(xd, w)", **U8, **W8), codes) == []
