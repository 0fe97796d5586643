"""Files as they should be, and what onnxruntime makes of each."""

from dataclasses import dataclass

import onnx
from targets.rules.files import file
from targets.rules.wrong import (
    B4,
    BIAS,
    BLOCKS,
    COLUMNS,
    CONV,
    CUBE,
    DYNAMIC,
    I8,
    IMAGE,
    INTEGER,
    K8,
    MATRIX,
    OUT,
    TWO,
    U8,
    VECTOR,
    W4,
    W8,
    X8,
    Y8,
    ZEROED,
    blocked,
    nbits,
)

EXACT, ROUNDED = 1e-6, 3e-2
"""Deviation of the optimised graph: in float or of the same integers, and with int8 activations."""


@dataclass(frozen=True)
class Right:
    """A file that breaks no rule of its targets."""

    proto: onnx.ModelProto
    fused: tuple[str, ...]
    """Operators of the optimised graph that show what the weights became"""
    targets: tuple[str, ...] = ("ort", "openvino", "portable")
    limit: float = EXACT


EVERYWHERE = ("ort", "openvino", "portable", "web")
ORT_ONLY, ORT_AND_WEB = ("ort",), ("ort", "web")
RELU = {"ys": "float=0.05", "yz": "uint8=0"}
CAST8 = "p = Cast<to=3>(q)"
FLOATED = "f = Cast<to=1>(q) w = Mul(f, s)"
INPUT2 = "hq = QuantizeLinear(h, hs, hz) hd = DequantizeLinear(hq, hs, hz)"
DYNAMIC_INTEGER = "i = MatMulInteger(a, {codes}, az, z) f = Cast<to=1>(i) ss = Mul(as, s) t = Mul(f, ss)"
TOKENS = "float[1,5,64] x -> float[1,5,64] y"

WEIGHT_ONLY = {
    **{
        f"int4 in blocks of {block}": Right(blocked(256, block), ("MatMulNBits",), limit=ROUNDED)
        for block in (32, 64, 128)
    },
    "int8 in blocks": Right(blocked(64, 32, "int8"), ("MatMulNBits",), limit=ROUNDED),
    "uint4 in blocks with zero points": Right(
        blocked(64, 32, "uint4", z="uint4[2,32]=8"), ("MatMulNBits",), limit=ROUNDED
    ),
    "int4 in ragged blocks": Right(blocked(100, 32), ("MatMulNBits",), ORT_ONLY, ROUNDED),
    "int4 per channel": Right(
        file(MATRIX, f"{COLUMNS} y = MatMul(x, w)", **W4), ("MatMulNBits",), limit=ROUNDED
    ),
    "int8 per channel at opset 13": Right(
        file(MATRIX, f"{COLUMNS} y = MatMul(x, w)", 13, 7, q="int8[64,32]", s="float[32]"),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "int4 with one scale": Right(
        file(MATRIX, f"{COLUMNS} y = MatMul(x, w)", q="int4[64,32]", s="float"),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "int2 packed": Right(blocked(128, 64, "int2", 25), ("MatMulNBits",), ORT_ONLY, ROUNDED),
    "int2 of rows that 64 does not divide": Right(
        blocked(96, 32, "int2", 25), ("MatMulNBits",), ORT_ONLY, ROUNDED
    ),
    "Gemm": Right(
        file(MATRIX, f"{BLOCKS} y = Gemm(x, w, c)", **B4, **VECTOR), ("MatMulNBits",), limit=ROUNDED
    ),
    "MatMul + Add": Right(
        file(MATRIX, f"{BLOCKS} t = MatMul(x, w) y = Add(t, c)", **B4, **VECTOR),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "residual Add of three axes": Right(
        file(
            "float[1,5,64] x, float[1,5,32] r -> float[1,5,32] y",
            f"{BLOCKS} t = MatMul(x, w) y = Add(t, r)",
            **B4,
        ),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "two products, two weights": Right(
        file(
            TWO,
            f"{BLOCKS} w2 = DequantizeLinear<axis=1>(p, o) y = MatMul(x, w) v = MatMul(x, w2)",
            **B4,
            p="int4[64,32]",
            o="float[32]",
        ),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "Relu between products behind a Reshape": Right(
        file(
            MATRIX,
            f"{BLOCKS} t = Gemm(x, w, c) k = Reshape(t, n) u = Relu(k)"
            " v = DequantizeLinear<axis=1>(p, o) y = MatMul(u, v)",
            **B4,
            **VECTOR,
            n="int64[2]=0",
            p="int4[32,32]",
            o="float[32]",
        ),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "Sigmoid between products": Right(
        file(
            MATRIX,
            f"{BLOCKS} t = Gemm(x, w, c) u = Sigmoid(t) v = DequantizeLinear<axis=1>(p, o) y = MatMul(u, v)",
            **B4,
            **VECTOR,
            p="int4[32,32]",
            o="float[32]",
        ),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "int8 behind a Transpose": Right(
        file(
            MATRIX,
            "w = DequantizeLinear<axis=0>(q, s) v = Transpose<perm=[1,0]>(w) y = MatMul(x, v)",
            q="int8[32,64]",
            s="float[32]",
        ),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "half precision": Right(
        file(
            "float16[M,64] x -> float16[M,32] y",
            f"{BLOCKS} y = MatMul(x, w)",
            q="int4[64,32]",
            s="float16[2,32]",
        ),
        ("MatMulNBits",),
        limit=ROUNDED,
    ),
    "MatMulNBits of 4 bits": Right(nbits(4, 32), ("MatMulNBits",)),
    "MatMulNBits of 8 bits": Right(nbits(8, 32), ("MatMulNBits",)),
    "MatMulNBits of 2 bits": Right(nbits(2, 64), ("MatMulNBits",)),
    "MatMulNBits with zero points": Right(nbits(4, 32, zero="uint8[32]=136"), ("MatMulNBits",)),
    "a product of floats": Right(file(MATRIX, "y = MatMul(x, w)", w="float[64,32]"), ("MatMul",), EVERYWHERE),
    "a Conv of floats": Right(
        file(IMAGE, "t = Conv<pads=[1,1,1,1]>(x, w) y = Relu(t)", w="float[8,16,3,3]"),
        ("Conv",),
        EVERYWHERE,
    ),
    "Cast * scale before a MatMul": Right(
        file(MATRIX, f"{FLOATED} y = MatMul(x, w)", **W4), ("MatMul",), EVERYWHERE
    ),
    "Cast * scale before a Conv": Right(
        file(IMAGE, f"{FLOATED} y = Conv<pads=[1,1,1,1]>(x, w)", q="int4[8,16,3,3]", s="float[8,1,1,1]"),
        ("Conv",),
        EVERYWHERE,
    ),
    "embedding": Right(
        file(
            "int64[M] i -> float[M,32] y",
            "r = Gather(q, i) f = Cast<to=1>(r) k = Gather(s, i) y = Mul(f, k)",
            q="int8[64,32]",
            s="float[64,1]",
        ),
        ("Gather", "Mul"),
        EVERYWHERE,
    ),
}
EIGHT_BITS = {
    "MatMul": Right(
        file(MATRIX, f"{X8} {ZEROED} y = MatMul(xd, w)", **U8, **W8), ("MatMulIntegerToFloat",), EVERYWHERE
    ),
    "MatMul with a stored output": Right(
        file(MATRIX, f"{X8} {ZEROED} t = MatMul(xd, w) {Y8}", **U8, **W8, **OUT),
        ("QLinearMatMul",),
        EVERYWHERE,
    ),
    "MatMul without zero point": Right(
        file(MATRIX, f"{X8} {COLUMNS} y = MatMul(xd, w)", **U8, q="int8[64,32]", s="float[32]"),
        ("MatMulIntegerToFloat",),
        EVERYWHERE,
    ),
    "Gemm with an int32 bias": Right(
        file(MATRIX, f"{X8} {ZEROED} {BIAS} y = Gemm(xd, w, c)", **U8, **W8, **INTEGER),
        ("QGemm",),
        EVERYWHERE,
    ),
    "Gemm, transposed": Right(
        file(
            MATRIX,
            f"{X8} w = DequantizeLinear<axis=0>(q, s, z) {BIAS} y = Gemm<transB=1>(xd, w, c)",
            **U8,
            **W8 | {"q": "int8[32,64]"},
            **INTEGER,
        ),
        ("QGemm",),
        EVERYWHERE,
    ),
    "Gemm with a float bias and a stored output": Right(
        file(MATRIX, f"{X8} {ZEROED} t = Gemm(xd, w, c) {Y8}", **U8, **W8, **VECTOR, **OUT),
        ("QGemm",),
        EVERYWHERE,
    ),
    "MatMul + Add of three axes": Right(
        file(CUBE, f"{X8} {ZEROED} {BIAS} t = MatMul(xd, w) y = Add(t, c)", **U8, **W8, **INTEGER),
        ("QGemm",),
        EVERYWHERE,
    ),
    "int8 activations at opset 19": Right(
        file(CUBE, f"{X8} {ZEROED} m = MatMul(xd, w) t = Add(m, c) {Y8}", 19, 9, **I8, **W8, **VECTOR, **OUT),
        ("QGemm",),
        EVERYWHERE,
    ),
    "int8 activations without bias at opset 21": Right(
        file(CUBE, f"{X8} {ZEROED} y = MatMul(xd, w)", **I8, **W8), ("MatMulIntegerToFloat",), EVERYWHERE
    ),
    "activations on both sides": Right(
        file(
            "float[1,2,5,8] x, float[1,2,8,5] h -> float[1,2,5,5] y",
            f"{X8} {INPUT2} y = MatMul(xd, hd)",
            **U8,
            hs="float=0.04",
            hz="uint8=120",
        ),
        ("MatMulIntegerToFloat",),
        EVERYWHERE,
    ),
    "Conv": Right(file(IMAGE, f"{X8} {CONV} {Y8}", **U8, **K8, **OUT), ("QLinearConv",), EVERYWHERE),
    "Conv, int32 bias, Relu": Right(
        file(
            IMAGE,
            f"{X8} {BIAS} {CONV.replace('xd, w', 'xd, w, c').replace('t =', 'u =')} t = Relu(u) {Y8}",
            **U8,
            **K8,
            **RELU,
            b="int32[8]",
            bs="float[8]=xs*s",
        ),
        ("QLinearConv",),
        EVERYWHERE,
    ),
    "Conv, float bias": Right(
        file(IMAGE, f"{X8} {CONV.replace('xd, w', 'xd, w, c')} {Y8}", **U8, **K8, **OUT, c="float[8]"),
        ("QLinearConv",),
        EVERYWHERE,
    ),
    "Conv, Relu6": Right(
        file(
            IMAGE,
            f"{X8} {CONV.replace('t =', 'u =')} t = Clip(u, lo, hi) {Y8}",
            **U8,
            **K8,
            ys="float=0.0235294",
            yz="uint8=0",
            lo="float=0",
            hi="float=6",
        ),
        ("QLinearConv",),
        EVERYWHERE,
    ),
    "Conv, Relu, int8 from -128 on": Right(
        file(
            IMAGE,
            f"{X8} {CONV.replace('t =', 'u =')} t = Relu(u) {Y8}",
            **I8,
            **K8,
            ys="float=0.05",
            yz="int8=-128",
        ),
        ("QLinearConv",),
        EVERYWHERE,
    ),
    "Conv, MaxPool": Right(
        file(
            "float[1,16,6,6] x -> float[1,8,3,3] y",
            f"{X8} {CONV.replace('t =', 'u =')} t = MaxPool<kernel_shape=[2,2], strides=[2,2]>(u) {Y8}",
            **U8,
            **K8,
            **OUT,
        ),
        ("QLinearConv",),
        EVERYWHERE,
    ),
    "depthwise Conv": Right(
        file(
            "float[1,8,6,6] x -> float[1,8,6,6] y",
            f"{X8} w = DequantizeLinear<axis=0>(q, s, z) t = Conv<group=8, pads=[1,1,1,1]>(xd, w) {Y8}",
            **U8,
            **OUT,
            **K8 | {"q": "int8[8,1,3,3]"},
        ),
        ("QLinearConv",),
    ),
    "residual of Convs": Right(
        file(
            "float[1,8,6,6] x -> float[1,8,6,6] y",
            f"{X8} w = DequantizeLinear<axis=0>(q, s, z) u = Conv<pads=[1,1,1,1]>(xd, w)"
            " hq = QuantizeLinear(u, hs, hz) hd = DequantizeLinear(hq, hs, hz)"
            f" t = Add(hd, xd) {Y8}",
            **U8,
            **OUT,
            **K8 | {"q": "int8[8,8,3,3]"},
            hs="float=0.06",
            hz="uint8=128",
        ),
        ("QLinearConv", "QLinearAdd"),
        EVERYWHERE,
    ),
    "transformer block": Right(
        file(
            TOKENS,
            f"n = LayerNormalization<axis=-1>(x, g, e) {X8.replace('(x,', '(n,')} {ZEROED} {BIAS}"
            " m = MatMul(xd, w) u = Add(m, c) h = Gelu(u)"
            f" {INPUT2} w2 = DequantizeLinear<axis=1>(p, o, k) c2 = DequantizeLinear<axis=0>(b2, bs2)"
            " m2 = MatMul(hd, w2) u2 = Add(m2, c2) y = Add(u2, x)",
            **U8,
            **W8,
            **INTEGER,
            g="float[64]",
            e="float[64]",
            hs="float=0.04",
            hz="uint8=20",
            p="int8[32,64]",
            o="float[64]",
            k="int8[64]=0",
            b2="int32[64]",
            bs2="float[64]=hs*o",
        ),
        ("QGemm",),
        EVERYWHERE,
        ROUNDED,
    ),
    "int4 cast to int8": Right(
        file(
            MATRIX,
            f"{X8} {CAST8} w = DequantizeLinear<axis=1>(p, s, z) y = MatMul(xd, w)",
            **U8,
            **W8 | {"q": "int4[64,32]"},
        ),
        ("MatMulIntegerToFloat",),
        EVERYWHERE,
    ),
    "int2 cast to int8": Right(
        file(
            MATRIX,
            f"{X8} {CAST8} w = DequantizeLinear<axis=1>(p, s, z) y = MatMul(xd, w)",
            25,
            **U8,
            **W8 | {"q": "int2[64,32]"},
        ),
        ("MatMulIntegerToFloat",),
        ORT_AND_WEB,
    ),
    "Conv of int4 cast to int8": Right(
        file(
            IMAGE,
            f"{X8} {CAST8} {CONV.replace('(q, s, z)', '(p, s, z)')} {Y8}",
            **U8,
            **OUT,
            **K8 | {"q": "int4[8,16,3,3]"},
        ),
        ("QLinearConv",),
        EVERYWHERE,
    ),
    "dynamic": Right(
        file(MATRIX, f"{DYNAMIC} {ZEROED} y = MatMul(xd, w)", **W8), ("DynamicQuantizeMatMul",), ORT_AND_WEB
    ),
    "dynamic with MatMulInteger": Right(
        file(
            MATRIX,
            f"a, as, az = DynamicQuantizeLinear(x) {DYNAMIC_INTEGER.format(codes='q')} y = Add(t, c)",
            **W8,
            **VECTOR,
        ),
        ("DynamicQuantizeMatMul",),
        ORT_AND_WEB,
    ),
    "dynamic with MatMulInteger of int4": Right(
        file(
            MATRIX,
            f"{CAST8} a, as, az = DynamicQuantizeLinear(x) {DYNAMIC_INTEGER.format(codes='p')} y = Add(t, c)",
            **W8 | {"q": "int4[64,32]"},
            **VECTOR,
        ),
        ("DynamicQuantizeMatMul",),
        ORT_AND_WEB,
    ),
}
RIGHT = {f"weights: {k}": v for k, v in WEIGHT_ONLY.items()} | {
    f"8 bits: {k}": v for k, v in EIGHT_BITS.items()
}
