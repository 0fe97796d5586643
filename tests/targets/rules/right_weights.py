"""Weight-only files as they should be, and float ones."""

from targets.rules.files import file
from targets.rules.right import EVERYWHERE, FLOATED, ORT_ONLY, ROUNDED, Right
from targets.rules.wrong import (
    B4,
    BLOCKS,
    COLUMNS,
    IMAGE,
    MATRIX,
    TWO,
    VECTOR,
    W4,
    blocked,
    nbits,
)

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
