"""Files that TensorRT's rules must let pass, each with the warnings that are due."""

import ml_dtypes
import numpy as np
from qdq_files import (
    ACT,
    CONV,
    DECONV,
    F32,
    FLOAT,
    FP4,
    FP8,
    GEMM8,
    I4,
    I8,
    INT4_MATMUL,
    MATMUL8,
    RESIDUAL,
    File,
    codes,
    pair,
    scales,
)

BF16 = ml_dtypes.bfloat16
NO_SCALE: dict[str, np.ndarray] = {"z": np.zeros((), I8)}


def without(file: File, *names: str) -> File:
    """`file` less some of its initializers."""
    kept = {name: value for name, value in file.arrays.items() if name not in names}
    return File(file.text, kept, file.opset, file.ir)


def in_float32(file: File) -> File:
    arrays = {n: a.astype(F32) for n, a in file.arrays.items() if a.dtype == np.float16}
    return file.but(("float16[", "float["), **arrays)


ISLAND = in_float32(CONV).but(
    ("y = Conv(a, w, b)", "c = Conv(a, w, b) h = Cast<to=10>(c) r = Relu(h) y = Cast<to=1>(r)")
)
INT4_TRANSPOSED = INT4_MATMUL.but(
    ("axis=0", "axis=1"),
    ("y = MatMul(x, w)", "t = Transpose(w) y = MatMul(x, t)"),
    wq=codes(8, 128, dtype=I4),
    ws=scales(8, 2),
)
GATHER4 = File(
    """g (int64[N] x) => (float16[N,128] y) {
      w = DequantizeLinear<axis=1, block_size=64>(wq, ws)
      y = Gather(w, x)
    }""",
    {"wq": codes(32, 128, dtype=I4), "ws": scales(32, 2)},
)
IF_CAPTURES = File(
    """g (float16[N,128] x, bool c) => (float16[N,8] y) {
      w = DequantizeLinear<axis=0, block_size=64>(wq, ws)
      y = If(c) <then_branch = t () => (float16[N,8] a) { a = MatMul(x, w) },
                 else_branch = e () => (float16[N,8] b) { m = MatMul(x, w) b = Neg(m) }>
    }""",
    INT4_MATMUL.arrays,
)
IF_INSIDE = File(
    """g (float16[N,128] x, bool c) => (float16[N,8] y) {
      y = If(c) <then_branch = t () => (float16[N,8] a) {
                   w = DequantizeLinear<axis=0, block_size=64>(wq, ws) a = MatMul(x, w) },
                 else_branch = e () => (float16[N,8] b) {
                   w2 = DequantizeLinear<axis=0, block_size=64>(wq, ws) v = Neg(x) b = MatMul(v, w2) }>
    }""",
    INT4_MATMUL.arrays,
)
ATTENTION8 = File(
    f"""g (float16[B,T,16] q, float16[B,T,16] k, float16[B,T,16] v) => (float16[B,T,16] y) {{
      {pair("q", "a")}
      kt = Transpose<perm=[0,2,1]>(k)
      {pair("kt", "b")}
      p = MatMul(a, b)
      r = Softmax(p)
      {pair("r", "c")}
      {pair("v", "d")}
      y = MatMul(c, d)
    }}""",
    ACT,
)
BLOCK4 = File(
    """g (float16[B,T,128] x) => (float16[B,T,128] y) {
      n = LayerNormalization(x, gain)
      w1 = DequantizeLinear<axis=0, block_size=64>(q1, s1)
      h = MatMul(n, w1)
      hb = Add(h, b1)
      g = Gelu(hb)
      w2 = DequantizeLinear<axis=0, block_size=128>(q2, s2)
      o = MatMul(g, w2)
      y = Add(o, x)
    }""",
    {
        "gain": scales(128),
        "q1": codes(128, 256, dtype=I4),
        "s1": scales(2, 256),
        "b1": scales(256),
        "q2": codes(256, 128, dtype=I4),
        "s2": scales(2, 128),
    },
)
NVFP4 = File(
    """g (float16[N,32] x) => (float16[N,8] y) {
      ws = DequantizeLinear(wss, one)
      w = DequantizeLinear<axis=0, block_size=16>(wq, ws)
      xq, xs = trt.TRT_FP4DynamicQuantize<axis=-1, block_size=16, scale_type=17>(x, one)
      xf = DequantizeLinear(xs, one)
      a = DequantizeLinear<axis=-1, block_size=16>(xq, xf)
      y = MatMul(a, w)
    }""",
    {
        "wq": codes(32, 8, dtype=FP4),
        "wss": np.ones((2, 8), FP8),
        "one": np.ones((), np.float16),
    },
    opset=23,
    ir=11,
)
SHARED_RESIDUAL = RESIDUAL.but(
    ("Add(k, a)", "Add(k, x)"), ("y = Relu(t)", "n = Neg(k) p = Add(t, n) y = Relu(p)")
)
TWO_BRANCHES = RESIDUAL.but(
    (
        "t = Add(k, a)",
        f"u = DequantizeLinear<axis=0>(wq2, ws, wz) l = Conv(a, u, b) {pair('l', 'm')} t = Add(k, m)",
    )
)
POOLED = CONV.but(("y = Conv(a, w, b)", "p = MaxPool<kernel_shape=[1,1]>(a) y = Conv(p, w, b)"))
CONCAT = CONV.but(
    ("y = Conv(a, w, b)", f"r = Relu(x) {pair('r', 'c')} d = Concat<axis=0>(a, c) y = Conv(d, w, b)"),
    ("=> (float16[1", "=> (float16[2"),
)
ONE_OUTPUT = CONV.but(
    ("float16[1,4,8,8] y", "float16[1,1,8,8] y"),
    wq=codes(1, 4, 1, 1),
    ws=scales(1),
    wz=np.zeros(1, I8),
    b=scales(1),
)
FAKE_WEIGHT = CONV.but(
    (
        "w = DequantizeLinear<axis=0>(wq, ws, wz)",
        "v = QuantizeLinear<axis=0>(wf, ws, wz) w = DequantizeLinear<axis=0>(v, ws, wz)",
    ),
    wf=scales(4, 4, 1, 1),
)
FAKE_LINEAR = MATMUL8.but(
    (
        "w = DequantizeLinear<axis=1>(wq, ws)",
        "q = QuantizeLinear<axis=0>(wf, ws, wz) d = DequantizeLinear<axis=0>(q, ws, wz) w = Transpose(d)",
    ),
    wf=scales(16, 16),
    wz=np.zeros(16, I8),
)
IF_FLOAT = File(
    """g (float16[N,4] x, bool c) => (float16[N,4] y) {
      y = If(c) <then_branch = t () => (float16[N,4] a) { a = Relu(x) },
                 else_branch = e () => (float16[N,4] b) { b = Neg(x) }>
    }""",
    {},
)
NO_SHAPES = File(
    f"""g (float16[A,B,C] x, int64[M] shape) => (float16[D,E] y) {{
      r = Reshape(x, shape)
      {pair("r", "a")}
      w = DequantizeLinear<axis=1>(wq, ws)
      y = MatMul(a, w)
    }}""",
    MATMUL8.arrays,
)

FILES: tuple[tuple[str, File, set[str]], ...] = (
    ("int8 Conv", CONV, set()),
    ("int8 MatMul and Add", MATMUL8, set()),
    ("int8 Gemm transB", GEMM8, set()),
    ("int8 Gemm", GEMM8.but(("<transB=1>", ""), ("<axis=0>", "<axis=1>")), set()),
    ("int8 ConvTranspose per tensor", DECONV, set()),
    ("int8 residual", RESIDUAL, set()),
    ("float residual of a Conv that is read elsewhere too", SHARED_RESIDUAL, set()),
    ("int8 residual of two convolutions", TWO_BRANCHES, set()),
    ("int8 Conv behind MaxPool", POOLED, set()),
    ("int8 Conv behind Concat", CONCAT, set()),
    ("int8 Conv of any batch", CONV.but(("float16[1,", "float16[N,")), set()),
    ("int8 Conv of any size", CONV.but(("[1,4,8,8]", "[N,4,H,W]")), set()),
    ("int8 depthwise", CONV.but(("Conv(a", "Conv<group=4>(a"), wq=codes(4, 1, 1, 1)), set()),
    ("int8 Conv 1D", CONV.but(("1,4,8,8", "1,4,8"), wq=codes(4, 4, 1)), set()),
    ("int8 Conv 3D", CONV.but(("1,4,8,8", "1,4,8,8,8"), wq=codes(4, 4, 1, 1, 1)), set()),
    ("int8 Conv, negative axis", CONV.but(("<axis=0>", "<axis=-4>")), set()),
    ("int8 Conv per tensor", CONV.but(ws=np.array(0.1, np.float16), wz=np.zeros((), I8)), set()),
    ("int8 Conv, scale of shape [1]", CONV.but(s=scales(1), z=np.zeros(1, I8)), {"TRT-W12"}),
    ("int8 Conv of one output", ONE_OUTPUT, set()),
    ("int8 Gemm, scale of shape [1]", GEMM8.but(s=scales(1), z=np.zeros(1, I8)), set()),
    ("int8 Conv and Relu", CONV.but(("y = Conv(a, w, b)", "h = Conv(a, w, b) y = Relu(h)")), set()),
    ("int8 Conv in float32", in_float32(CONV), {"TRT-W09"}),
    ("int8 Conv in float32, the rest in float16", ISLAND, set()),
    ("int8 Conv, opset 13", File(in_float32(CONV).text, in_float32(CONV).arrays, 13, 7), {"TRT-W09"}),
    ("int8 Conv, opset 19", File(CONV.text, CONV.arrays, 19, 9), set()),
    ("int8 Conv, opset 25", CONV.but(opset=25, ir=13), {"TRT-W10"}),
    (
        "int8 per tensor, opset 10",
        File(
            f"g (float[N,16] x) => (float[N,16] y) {{ {pair('x', 'a')} {pair('v', 'w')} y = MatMul(a, w) }}",
            {"s": np.array(0.1, F32), "z": np.zeros((), I8), "v": scales(16, 16, dtype=F32)},
            10,
            5,
        ),
        {"TRT-W09"},
    ),
    (
        "output_dtype",
        MATMUL8.but(("(x, s, z)", "<output_dtype=3>(x, s)"), ("(aq, s, z)", "(aq, s)")),
        set(),
    ),
    (
        "scales of Constant nodes",
        without(in_float32(CONV), "s").but(("aq = Q", "s = Constant<value_float=0.1>() aq = Q")),
        {"TRT-W09"},
    ),
    (
        "scale and zero point of Constant nodes",
        without(in_float32(CONV), "s", "z").but(
            ("aq = Q", "s = Constant<value = float {0.1}>() z = Constant<value = int8 {0}>() aq = Q")
        ),
        {"TRT-W09"},
    ),
    ("scale behind Identity", CONV.but(("aq = Q", "i = Identity(s) aq = Q"), ("s, z)", "i, z)")), set()),
    (
        "scale behind Cast",
        without(CONV, "s").but(("aq = Q", "s = Cast<to=10>(wide) aq = Q"), wide=np.array(0.1, F32)),
        set(),
    ),
    ("weight through both", FAKE_WEIGHT, set()),
    ("linear weight through both and Transpose", FAKE_LINEAR, set()),
    (
        "int8 weight on the left",
        MATMUL8.but(("<axis=1>", "<axis=0>"), ("MatMul(a, w)", "MatMul(w, a)"), ("[N,16]", "[16,16]")),
        set(),
    ),
    (
        "int8 batched weight",
        MATMUL8.but(("axis=1", "axis=2"), ("[N,16]", "[2,N,16]"), wq=codes(2, 16, 16)),
        set(),
    ),
    ("int8 attention", ATTENTION8, set()),
    ("int8 without shapes", NO_SHAPES, set()),
    ("fp8 MatMul", MATMUL8.but(wq=codes(16, 16, dtype=FP8), z=np.zeros((), FP8)), set()),
    (
        "fp8 Conv",
        CONV.but(wq=codes(4, 4, 1, 1, dtype=FP8), z=np.zeros((), FP8), wz=np.zeros(4, FP8)),
        set(),
    ),
    ("fp4", NVFP4, {"TRT-W10"}),
    ("int4 MatMul, block 64", INT4_MATMUL, set()),
    ("int4 MatMul, block 128", INT4_MATMUL.but(("=64", "=128"), ws=scales(1, 8)), set()),
    ("int4 MatMul, negative axis", INT4_MATMUL.but(("axis=0", "axis=-2")), set()),
    ("int4 MatMul, zero point", INT4_MATMUL.but(("ws)", "ws, wz)"), wz=np.zeros((2, 8), I4)), set()),
    ("int4 MatMul in float32", in_float32(INT4_MATMUL), {"TRT-W09"}),
    (
        "int4 MatMul in bfloat16",
        INT4_MATMUL.but(("float16[", "bfloat16["), ws=scales(2, 8, dtype=BF16)),
        set(),
    ),
    (
        "int4 MatMul, float32 scale and Cast",
        INT4_MATMUL.but(
            ("MatMul(x, w)", "MatMul(x, v)"), ("y = ", "v = Cast<to=10>(w) y = "), ws=scales(2, 8, dtype=F32)
        ),
        set(),
    ),
    ("int4 MatMul, Transpose", INT4_TRANSPOSED, set()),
    ("int4 Gemm", INT4_MATMUL.but(("MatMul(x, w)", "Gemm(x, w)")), set()),
    (
        "int4 Gemm transB",
        INT4_MATMUL.but(
            ("axis=0", "axis=1"),
            ("MatMul(x", "Gemm<transB=1>(x"),
            wq=codes(8, 128, dtype=I4),
            ws=scales(8, 2),
        ),
        set(),
    ),
    ("int4 Gather", GATHER4, set()),
    ("int4 read in If", IF_CAPTURES, {"TRT-W11"}),
    ("int4 in If", IF_INSIDE, {"TRT-W11"}),
    ("int4 transformer block", BLOCK4, set()),
    ("float", FLOAT, set()),
    ("float32", in_float32(FLOAT), set()),
    ("float If", IF_FLOAT, set()),
    ("a plugin", FLOAT.but(("y = Relu(h)", "y = trt.Sparkle(h)")), set()),
    ("nothing at all", File("g (float16[N] x) => (float16[N] y) { y = Identity(x) }", {}), set()),
)
VALID = {name: (file, warned) for name, file, warned in FILES}
