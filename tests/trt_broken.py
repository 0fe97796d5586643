"""Files that break one of TensorRT's rules each, beside the same files put right."""

import ml_dtypes
import numpy as np
from qdq_files import (
    ACT,
    CONV,
    DECONV,
    F16,
    F32,
    FLOAT,
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
from trt_valid import without

NORM = {name: np.ones(4, F16) for name in ("gamma", "beta", "mean", "var")}


def _conv_then(*lines: str) -> tuple[str, str]:
    return "y = Conv(a, w, b)", "\n".join(("h = Conv(a, w, b)", *lines))


FUNCTION = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
g (float16[N,16] x) => (float16[N,16] y) { y = own.Twice(x) }
<domain: "own", opset_import: ["" : 21]> Twice (a) => (b) { b = Add(a, a) }"""
PLAIN = """<ir_version: 10, opset_import: ["" : 21]>
g (float16[N,16] x) => (float16[N,16] y) { y = Add(x, x) }"""
IN_FUNCTION = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
g (float16[N,16] x) => (float16[N,16] y) { y = own.Rounded(x) }
<domain: "own", opset_import: ["" : 21]> Rounded (a) => (b) {
  s = Constant<value = float16 {1}>()
  q = QuantizeLinear(a, s)
  b = DequantizeLinear(q, s)
}"""
MIXED = File(
    f"""g (float16[N,16] x) => (float16[N,16] y) {{
      {pair("x", "a")}
      w = DequantizeLinear<axis=1>(wq, ws)
      h = MatMul(a, w)
      cq = QuantizeLinear(h, s, z8) c = DequantizeLinear(cq, s, z8)
      v = DequantizeLinear<axis=1>(vq, ws)
      y = MatMul(c, v)
    }}""",
    ACT | {"wq": codes(16, 16), "vq": codes(16, 16, dtype=FP8), "ws": scales(16), "z8": np.zeros((), FP8)},
)
F32_ARRAYS = {name: CONV.arrays[name].astype(F32) for name in ("s", "ws", "b")}
F32_CONV = CONV.but(("float16[", "float["), **F32_ARRAYS)
BIAS32 = without(CONV, "b").but(
    ("y = Conv(a, w, b)", "b = DequantizeLinear<axis=0>(bq, bs) y = Conv(a, w, b)"),
    bq=codes(4, dtype=np.int32),
    bs=scales(4),
)
BATCHED4 = INT4_MATMUL.but(
    ("float16[N,128]", "float16[2,N,128]"),
    ("float16[N,8]", "float16[2,N,8]"),
    ("axis=0", "axis=1"),
    wq=codes(2, 128, 8, dtype=I4),
    ws=scales(2, 2, 8),
)
INT4_CONV = INT4_MATMUL.but(
    ("float16[N,128] x", "float16[N,128,4,4] x"),
    ("float16[N,8] y", "float16[N,8,4,4] y"),
    ("y = MatMul(x, w)", "t = Transpose(w) k = Reshape(t, to) y = Conv(x, k)"),
    to=np.array([8, 128, 1, 1]),
)

TWO_READERS = INT4_MATMUL.but(
    ("y = MatMul(x, w)", "h = MatMul(x, w) n = Neg(x) k = MatMul(n, w) y = Add(h, k)")
)
OWN_CODES = TWO_READERS.but(
    ("MatMul(n, w)", "MatMul(n, w2)"),
    ("h =", "w2 = DequantizeLinear<axis=0, block_size=64>(wq2, ws) h ="),
    wq2=codes(128, 8, dtype=I4),
)
TWO_LINEARS = OWN_CODES.but(("(wq2,", "(wq,"))
TWO_BRANCHES = File(
    f"""g (float16[16,16] x, bool c) => (float16[16,16] y) {{
      {pair("x", "a")}
      y = If(c) <then_branch = t () => (float16[16,16] k) {{
                   w = DequantizeLinear<axis=1>(wq, ws) k = MatMul(a, w) }},
                 else_branch = e () => (float16[16,16] n) {{
                   v = DequantizeLinear<axis=1>(wq, ws) n = MatMul(a, v) }}>
    }}""",
    MATMUL8.arrays,
)

BROKEN: tuple[tuple[str, File, File], ...] = (
    ("TRT-E01", FLOAT.but(opset=26, ir=13), FLOAT),
    ("TRT-E01", FLOAT.but(ir=14), FLOAT),
    ("TRT-E02", FLOAT.but(("h = MatMul(x, w)", "h = com.microsoft.FusedMatMul(x, w)")), FLOAT),
    ("TRT-E02", FLOAT.but(("y = Relu(h)", "y = com.microsoft.Gelu(h)")), FLOAT.but(("Relu(", "Gelu("))),
    (
        "TRT-E03",
        CONV.but(("8] x)", "8] x, float16 s2)"), ("(x, s,", "(x, s2,"), ("(aq, s,", "(aq, s2,")),
        CONV,
    ),
    ("TRT-E03", CONV.but(("w = Deq", "m = ReduceMax<keepdims=0>(x) w = Deq"), ("(x, s,", "(x, m,")), CONV),
    ("TRT-E04", CONV.but(ws=np.array([0.1, 0, 0.1, 0.1], F16)), CONV),
    ("TRT-E04", CONV.but(ws=np.array([0.1, -0.1, 0.1, 0.1], F16)), CONV),
    ("TRT-E04", CONV.but(s=np.array(np.inf, F16)), CONV),
    ("TRT-E04", INT4_MATMUL.but(ws=np.full((2, 8), np.nan, F16)), INT4_MATMUL),
    ("TRT-E05", CONV.but(ws=scales(4, dtype=np.float64)), CONV),
    ("TRT-E06", CONV.but(("8] x)", "8] x, int8 z2)"), ("s, z)", "s, z2)")), CONV),
    ("TRT-E07", CONV.but(z=np.array(3, I8)), CONV),
    ("TRT-E07", CONV.but(wz=np.array([0, 0, 1, 0], I8)), CONV),
    ("TRT-E07", INT4_MATMUL.but(("ws)", "ws, wz)"), wz=np.full((2, 8), 1, I4)), INT4_MATMUL),
    ("TRT-E08", CONV.but(wz=np.zeros((), I8)), CONV),
    ("TRT-E08", DECONV.but(("ws)", "ws, wz)"), wz=np.zeros(4, I8)), DECONV),
    ("TRT-E09", CONV.but(("(x, s, z)", "(x, s)"), ("(aq, s, z)", "(aq, s)")), CONV),
    ("TRT-E09", MATMUL8.but(("(x, s, z)", "<output_dtype=0>(x, s)")), MATMUL8),
    ("TRT-E10", CONV.but(z=np.zeros((), np.uint8)), CONV),
    ("TRT-E10", CONV.but(z=np.zeros((), np.int16)), CONV),
    ("TRT-E10", CONV.but(("(x, s, z)", "<output_dtype=2>(x, s)")), CONV),
    ("TRT-E10", BIAS32, CONV),
    ("TRT-E10", INT4_MATMUL.but(wq=np.ones((128, 8), ml_dtypes.uint4)), INT4_MATMUL),
    ("TRT-E10", MATMUL8.but(wq=np.ones((16, 16), np.uint8)), MATMUL8),
    ("TRT-E11", CONV.but(s=scales(4), z=np.zeros(4, I8)), CONV),
    ("TRT-E12", MATMUL8.but(z=np.zeros((), I4)), MATMUL8),
    ("TRT-E12", MATMUL8.but(("(x, s, z)", "<output_dtype=22>(x, s)"), ("(aq, s, z)", "(aq, s)")), MATMUL8),
    ("TRT-E13", MATMUL8.but(("axis=1", "axis=0, block_size=8"), ws=scales(2, 16)), MATMUL8),
    ("TRT-E14", BATCHED4, INT4_MATMUL),
    ("TRT-E15", INT4_MATMUL.but(("N,128", "N,100"), wq=codes(100, 8, dtype=I4)), INT4_MATMUL),
    ("TRT-E15", INT4_MATMUL.but(ws=scales(2, 4)), INT4_MATMUL),
    ("TRT-E15", INT4_MATMUL.but(ws=scales(8)), INT4_MATMUL),
    ("TRT-E16", INT4_MATMUL.but(("=64", "=32"), ws=scales(4, 8)), INT4_MATMUL),
    ("TRT-E16", INT4_MATMUL.but(("=64", "=16"), ws=scales(8, 8)), INT4_MATMUL),
    ("TRT-E17", CONV.but(ws=scales(3), wz=np.zeros(3, I8)), CONV),
    ("TRT-E17", CONV.but(ws=scales(4, 1), wz=np.zeros((4, 1), I8)), CONV),
    ("TRT-E18", INT4_MATMUL.but(("axis=0, block_size=64", "axis=1"), ws=scales(8)), INT4_MATMUL),
    ("TRT-E18", INT4_MATMUL.but(("<axis=0, block_size=64>", ""), ws=np.array(0.1, F16)), INT4_MATMUL),
    ("TRT-E19", INT4_MATMUL.but(("N,8", "N,7"), wq=codes(128, 7, dtype=I4), ws=scales(2, 7)), INT4_MATMUL),
    ("TRT-E20", INT4_CONV, INT4_MATMUL),
    ("TRT-E20", INT4_MATMUL.but(("MatMul", "Mul"), ("N,128", "128,8"), ("N,8", "128,8")), INT4_MATMUL),
    ("TRT-E21", CONV.but(("<axis=0>", "<axis=1>")), CONV),
    ("TRT-E21", MATMUL8.but(("<axis=1>", "<axis=0>")), MATMUL8),
    ("TRT-E21", GEMM8.but(("<axis=0>", "<axis=1>")), GEMM8),
    ("TRT-E21", GEMM8.but(("<transB=1>", "")), GEMM8),
    ("TRT-E21", MATMUL8.but(("(wq, ws)", "(wq, ws) t = Transpose(w)"), ("(a, w)", "(a, t)")), MATMUL8),
    (
        "TRT-E22",
        FLOAT.but(
            ("h = MatMul(x, w)", "c = Cast<to=10>(q) v = Mul(c, s) h = MatMul(x, v)"),
            q=codes(16, 16, dtype=I4),
            s=scales(16),
        ),
        FLOAT,
    ),
    ("TRT-W02", CONV.but(("(aq, s, z)", "(aq, s2, z)"), s2=np.array(0.5, F16)), CONV),
    ("TRT-W03", DECONV.but(("DequantizeLinear(wq", "DequantizeLinear<axis=1>(wq"), ws=scales(4)), DECONV),
    ("TRT-W04", CONV.but(("Conv(a,", "Conv(x,")), CONV),
    ("TRT-W04", MATMUL8.but(("MatMul(a,", "MatMul(x,")), MATMUL8),
    ("TRT-W05", CONV.but(_conv_then(pair("h", "o"), "y = Relu(o)")), CONV.but(_conv_then("y = Relu(h)"))),
    ("TRT-W05", CONV.but(_conv_then(pair("h", "o"), "y = Clip(o)")), CONV.but(_conv_then("y = Clip(h)"))),
    (
        "TRT-W06",
        CONV.but(_conv_then("y = BatchNormalization(h, gamma, beta, mean, var)"), **NORM),
        CONV.but(_conv_then("y = Relu(h)")),
    ),
    ("TRT-W07", RESIDUAL.but(("Add(k, a)", "Add(k, x)")), RESIDUAL),
    ("TRT-W07", RESIDUAL.but(("Add(k, a)", "Add(h, k)")), RESIDUAL),
    ("TRT-W08", MIXED, MIXED.but(vq=codes(16, 16), z8=np.zeros((), I8))),
    ("TRT-W09", F32_CONV, CONV),
    ("TRT-W10", CONV.but(opset=25, ir=13), CONV),
    ("TRT-W11", TWO_READERS, OWN_CODES),
    ("TRT-W11", TWO_LINEARS, OWN_CODES),
    (
        "TRT-W11",
        TWO_BRANCHES,
        TWO_BRANCHES.but(
            ("v = DequantizeLinear<axis=1>(wq,", "v = DequantizeLinear<axis=1>(wq2,"), wq2=codes(16, 16)
        ),
    ),
    ("TRT-W12", CONV.but(s=scales(1), z=np.zeros(1, I8)), CONV),
    ("TRT-W12", CONV.but(ws=scales(1), wz=np.zeros(1, I8)), CONV),
)
"""Rule, a file that breaks it and no other, and the file put right."""
