"""One file for each rule, which breaks it and no other rule of its runtime."""

from dataclasses import dataclass

import onnx
from targets.rules.files import file

MATRIX = "float[M,64] x -> float[M,32] y"
CUBE = "float[1,5,64] x -> float[1,5,32] y"
IMAGE = "float[1,16,6,6] x -> float[1,8,6,6] y"
X8 = "xq = QuantizeLinear(x, xs, xz) xd = DequantizeLinear(xq, xs, xz)"
Y8 = "yq = QuantizeLinear(t, ys, yz) y = DequantizeLinear(yq, ys, yz)"
COLUMNS = "w = DequantizeLinear<axis=1>(q, s)"
ZEROED = "w = DequantizeLinear<axis=1>(q, s, z)"
BLOCKS = "w = DequantizeLinear<axis=0, block_size=32>(q, s)"
CONV = "w = DequantizeLinear<axis=0>(q, s, z) t = Conv<pads=[1,1,1,1]>(xd, w)"
BIAS = "c = DequantizeLinear<axis=0>(b, bs)"
DYNAMIC = "a, as, az = DynamicQuantizeLinear(x) xd = DequantizeLinear(a, as, az)"
U8, I8 = {"xs": "float=0.03", "xz": "uint8=128"}, {"xs": "float=0.03", "xz": "int8=0"}
OUT = {"ys": "float=0.05", "yz": "uint8=128"}
W4, W8 = {"q": "int4[64,32]", "s": "float[32]"}, {"q": "int8[64,32]", "s": "float[32]", "z": "int8[32]=0"}
B4 = {"q": "int4[64,32]", "s": "float[2,32]"}
K8 = {"q": "int8[8,16,3,3]", "s": "float[8]", "z": "int8[8]=0"}
VECTOR = {"c": "float[32]"}
INTEGER = {"b": "int32[32]", "bs": "float[32]=xs*s"}

REFUSED, FAILS, WRONG, UNFUSED = "refused", "fails", "wrong", "unfused"


@dataclass(frozen=True)
class Wrong:
    """A file, and what onnxruntime or OpenVINO does with it; empty where that cannot be seen in a test."""

    proto: onnx.ModelProto
    does: str = ""
    before: str = ""
    """The version of onnxruntime in which it did so no longer"""


def nbits(bits: int, block: int, level: int = 4, zero: str = "", rows: int = 64) -> onnx.ModelProto:
    """One MatMulNBits of ``[rows, 32]``."""
    blocks = rows // block or 1
    attrs = f"K={rows}, N=32, bits={bits}, block_size={block}, accuracy_level={level}"
    more, ir = ({"z": zero}, ", z") if zero else ({}, "")
    body = f"y = com.microsoft.MatMulNBits<{attrs}>(x, q, s{ir})"
    specs = {"q": f"uint8[32,{blocks},{block * bits // 8}]", "s": f"float[{32 * blocks}]"}
    return file(f"float[M,{rows}] x -> float[M,32] y", body, **specs, **more)


def blocked(rows: int, block: int, kind: str = "int4", opset: int = 21, **more: str) -> onnx.ModelProto:
    """One MatMul with a weight in blocks of rows."""
    zero = ", z" if more else ""
    body = f"w = DequantizeLinear<axis=0, block_size={block}>(q, s{zero}) y = MatMul(x, w)"
    specs = {"q": f"{kind}[{rows},32]", "s": f"float[{-(-rows // block)},32]"}
    return file(f"float[M,{rows}] x -> float[M,32] y", body, opset, **specs, **more)


def with_function() -> onnx.ModelProto:
    """A model of opset 21 that calls a function of opset 11, where the axes of ReduceSum are an attribute."""
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "own": 1]> g (float[M,4] x) => (float[M] y)'
        " { y = own.total(x) }"
        '<domain: "own", opset_import: ["": 11]> total (x) => (y) { y = ReduceSum<axes=[1], keepdims=0>(x) }'
    )


def full_range(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with two neighbouring weights at the end of the range."""
    tensor = next(t for t in proto.graph.initializer if t.name == "q")
    codes = bytearray(tensor.raw_data)
    codes[0] = codes[32] = 127
    tensor.raw_data = bytes(codes)
    return proto


TWO = "float[M,64] x -> float[M,32] y, float[M,32] v"
ERRORS = {
    "ORT-E01": Wrong(file(MATRIX, "y = MatMul(x, w)", 26, 14, w="float[64,32]"), REFUSED, "1.32"),
    "ORT-E02": Wrong(file(MATRIX, "y = MatMul(x, w)", 27, 13, w="float[64,32]"), REFUSED, "1.32"),
    "ORT-E03": Wrong(
        file(CUBE, f"{X8} {ZEROED} {BIAS} t = MatMul(xd, w) y = Add(t, c)", **I8, **W8, **INTEGER), REFUSED
    ),
    "ORT-E04": Wrong(
        file(MATRIX, f"{X8} {COLUMNS} t = MatMul(xd, w) {Y8}", 25, **U8, **W4 | {"q": "int2[64,32]"}, **OUT),
        REFUSED,
    ),
    "ORT-E05": Wrong(
        file(
            MATRIX,
            "w = DequantizeLinear<axis=1, output_dtype=1>(q, s) y = MatMul(x, w)",
            23,
            q="int4[64,32]",
            s="float16[32]",
        ),
        REFUSED,
    ),
    "ORT-E06": Wrong(nbits(3, 32), REFUSED),
    "ORT-E07": Wrong(nbits(4, 512, rows=512), REFUSED, "1.32"),
    "ORT-E08": Wrong(nbits(8, 32, zero="float[64]"), FAILS),
    "ORT-E09": Wrong(
        file(MATRIX, f"{X8} {ZEROED} {BIAS} y = Gemm(xd, w, c)", **U8, **W8, **INTEGER | {"bs": "float[32]"}),
        WRONG,
    ),
    "ORT-E10": Wrong(
        file(
            "float[M,64] x -> float[M,30] y",
            "w = DequantizeLinear<axis=0, block_size=64>(q, s) y = MatMul(x, w)",
            25,
            q="int2[64,30]",
            s="float[1,30]",
        ),
        WRONG,
    ),
    "ORT-E11": Wrong(
        file(
            MATRIX,
            f"{X8} w = DequantizeLinear<axis=0, block_size=32>(q, s, z) y = MatMul(xd, w)",
            **U8,
            q="int8[64,32]",
            s="float[2,32]",
            z="int8[2,32]=0",
        ),
        FAILS,
    ),
    "ORT-E12": Wrong(with_function(), REFUSED),
    "ORT-E13": Wrong(file(MATRIX, f"{COLUMNS} y = MatMul(x, w)", q="int4[64,32]", s="float[32]=inf")),
}
WEIGHTS = {
    "ORT-W01": file(
        MATRIX,
        "w = DequantizeLinear<axis=0>(q, s) y = Gemm<transB=1>(x, w, c)",
        **W4 | {"q": "int4[32,64]"},
        **VECTOR,
    ),
    "ORT-W02": file(MATRIX, f"{COLUMNS} y = Gemm<alpha=0.5>(x, w, c)", **W4, **VECTOR),
    "ORT-W03": file(
        MATRIX,
        "w = DequantizeLinear<axis=0>(q, s) v = Transpose<perm=[1,0]>(w) y = MatMul(x, v)",
        **W4 | {"q": "int4[32,64]"},
    ),
    "ORT-W04": file(MATRIX, "w = DequantizeLinear<axis=-1>(q, s) y = MatMul(x, w)", **W4),
    "ORT-W05": file(TWO, f"{COLUMNS} y = MatMul(x, w) v = MatMul(x, w)", **W4),
    "ORT-W06": blocked(96, 48),
    "ORT-W07": file(
        MATRIX,
        "w = DequantizeLinear<axis=1, block_size=16>(q, s) y = MatMul(x, w)",
        q="int4[64,32]",
        s="float[64,2]",
    ),
    "ORT-W08": file(
        MATRIX, "w = DequantizeLinear<axis=0>(q, s) y = MatMul(x, w)", q="int4[64,32]", s="float[64]"
    ),
    "ORT-W09": file(MATRIX, f"{COLUMNS} y = MatMul(x, w)", q="int4[64,32]", s="float[1]"),
    "ORT-W10": file(
        "float[64,5] x -> float[32,5] y",
        "w = DequantizeLinear<axis=0>(q, s) y = MatMul(w, x)",
        q="int4[32,64]",
        s="float[32]",
    ),
    "ORT-W11": file(
        "float[2,5,64] x -> float[2,5,32] y",
        "w = DequantizeLinear<axis=2>(q, s) y = MatMul(x, w)",
        q="int4[2,64,32]",
        s="float[32]",
    ),
    "ORT-W12": file(
        MATRIX, f"{COLUMNS} v = Cast<to=1>(w) y = MatMul(x, v)", q="int4[64,32]", s="float16[32]"
    ),
    "ORT-W13": file(
        IMAGE, "w = DequantizeLinear<axis=0>(q, s) y = Conv<pads=[1,1,1,1]>(x, w)", q=K8["q"], s=K8["s"]
    ),
    "ORT-W14": file(
        "int64[M] i -> float[M,32] y",
        "w = DequantizeLinear<axis=0>(q, s) y = Gather(w, i)",
        q="int4[64,32]",
        s="float[64]",
    ),
    "ORT-W15": file(
        "float[M,64] x, float[M,32] r -> float[M,32] y",
        f"{COLUMNS} t = MatMul(x, w) y = Add(t, r)",
        **W4,
    ),
    "ORT-W16": file(
        MATRIX,
        f"{COLUMNS} t = Gemm(x, w, c) u = Relu(t) v = DequantizeLinear<axis=1>(p, o) y = MatMul(u, v)",
        **W4,
        **VECTOR,
        p="int4[32,32]",
        o="float[32]",
    ),
}
SLOW = {
    "ORT-W17": blocked(64, 32, "int2", 25),
    "ORT-W18": nbits(4, 32, zero="float[64]"),
    "ORT-W19": nbits(8, 32, level=0),
    "ORT-W20": file(MATRIX, f"{COLUMNS} y = MatMul(x, w)", q="int4[64,32]", s="float[32]=-0.01"),
    "ORT-W27": file(
        MATRIX, f"{X8} {ZEROED} y = MatMul(xd, w)", **U8, **W8 | {"q": "uint8[64,32]", "z": "uint8[32]=128"}
    ),
    "ORT-W28": file(
        "float[1,8,6,6] x -> float[1,8,6,6] y",
        f"{X8} w = DequantizeLinear<axis=0>(q, s, z) t = Conv<group=8, pads=[1,1,1,1]>(xd, w) {Y8}",
        **U8,
        **OUT,
        q="uint8[8,1,3,3]",
        s="float[8]",
        z="uint8[8]=128",
    ),
    "ORT-W30": file("int8[M,64] x -> int32[M,32] y", "y = MatMulInteger(x, q)", q="int8[64,32]"),
    "ORT-N01": full_range(file(MATRIX, f"{X8} {ZEROED} y = MatMul(xd, w)", **U8, **W8)),
}
ACTIVATIONS = {
    "ORT-W21": file(IMAGE, f"{X8} {CONV} y = Identity(t)", **U8, **K8),
    "ORT-W22": file(
        MATRIX,
        f"{X8} {COLUMNS} {BIAS} t = MatMul(xd, w) y = Add(t, c)",
        **U8,
        q="int8[64,32]",
        s="float[32]",
        **INTEGER,
    ),
    "ORT-W23": file(MATRIX, f"{X8} {ZEROED} y = Gemm(xd, w, c)", **U8, **W8, **VECTOR),
    "ORT-W24": file(MATRIX, f"{X8} {ZEROED} {BIAS} y = Gemm<alpha=0.5>(xd, w, c)", **U8, **W8, **INTEGER),
    "ORT-W25": file(
        IMAGE,
        f"{X8} {CONV.replace('t =', 'u =')} t = Relu(u) {Y8}",
        **I8,
        **K8,
        ys="float=0.05",
        yz="int8=0",
    ),
    "ORT-W26": file(
        IMAGE,
        f"{X8} {BIAS} {CONV.replace('xd, w', 'xd, w, c')} {Y8}",
        **U8,
        **K8,
        **OUT,
        b="int32[8]",
        bs="float[8]",
    ),
    "ORT-W29": file(MATRIX, f"{X8} {COLUMNS} y = MatMul(xd, w)", **U8, **W4),
    "ORT-W31": file(MATRIX, f"{DYNAMIC} {ZEROED} t = MatMul(xd, w) y = Add(t, c)", **W8, **VECTOR),
    "ORT-W32": file(
        "float[1,16,6,6] x -> float[1,8,8,8] y",
        f"{X8} w = DequantizeLinear<axis=1>(q, s) t = ConvTranspose(xd, w) {Y8}",
        **U8,
        **OUT,
        q="int8[16,8,3,3]",
        s="float[8]",
    ),
}
ORT = {
    **ERRORS,
    **{rule: Wrong(proto, UNFUSED) for rule, proto in (WEIGHTS | ACTIVATIONS).items()},
    **{rule: Wrong(proto) for rule, proto in SLOW.items()},
}
SHIFTED = 'h = BitShift<direction="RIGHT">(q, m) w = DequantizeLinear<axis=1>(h, s, z) y = MatMul(x, w)'
OPENVINO = {
    "OV-E01": Wrong(blocked(64, 64, "int2", 25), REFUSED),
    "OV-E02": Wrong(blocked(100, 32), REFUSED),
    "OV-E03": Wrong(WEIGHTS["ORT-W07"], REFUSED),
    "OV-E04": Wrong(WEIGHTS["ORT-W08"], WRONG),
    "OV-E05": Wrong(
        file(MATRIX, SHIFTED, q="uint8[64,32]", m="uint8=6", s="float[32]", z="uint8[32]=2"), WRONG
    ),
    "OV-E06": Wrong(nbits(3, 32), REFUSED),
    "OV-E07": Wrong(nbits(4, 24, rows=96), REFUSED),
    "OV-E08": ERRORS["ORT-E13"],
    "OV-W01": Wrong(blocked(64, 32, z="int4[2,32]=0")),
    "OV-W02": Wrong(blocked(64, 16)),
    "OV-W03": Wrong(file("uint8[M,64] x -> int32[M,32] y", "y = MatMulInteger(x, q)", q="int8[64,32]")),
    "OV-W04": Wrong(ACTIVATIONS["ORT-W29"]),
    "OV-W05": Wrong(SLOW["ORT-W27"]),
    "OV-W06": Wrong(WEIGHTS["ORT-W10"]),
    "OV-W07": Wrong(nbits(4, 32, zero="float[64]")),
}
WEB = {
    "WEB-W01": Wrong(blocked(64, 32)),
    "WEB-W02": Wrong(nbits(4, 32)),
    "WEB-W03": Wrong(
        file(
            "float[1,8,6,6] x -> float[1,8,6,6] y",
            f"{X8} w = DequantizeLinear<axis=0>(q, s, z) t = Conv<group=8, pads=[1,1,1,1]>(xd, w) {Y8}",
            **U8,
            **OUT,
            q="int8[8,1,3,3]",
            s="float[8]",
            z="int8[8]=0",
        )
    ),
    "WEB-W04": Wrong(file(MATRIX, "y = MatMul(x, w)", 22, w="float[64,32]")),
    "WEB-W05": Wrong(WEIGHTS["ORT-W14"]),
}
