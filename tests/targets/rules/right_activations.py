"""Files with 8-bit activations as they should be."""

from targets.rules.files import file
from targets.rules.right import (
    CAST8,
    DYNAMIC_INTEGER,
    EVERYWHERE,
    INPUT2,
    ORT_AND_WEB,
    RELU,
    ROUNDED,
    TOKENS,
    Right,
)
from targets.rules.wrong import (
    BIAS,
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
    U8,
    VECTOR,
    W8,
    X8,
    Y8,
    ZEROED,
)

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
