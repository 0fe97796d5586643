"""Small quantized files for the tests of rules, as ONNX text that a test changes."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
from graphs import model

F16, F32, I8, I4 = np.float16, np.float32, np.int8, ml_dtypes.int4
FP8, FP4 = ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn

PAIR = "{to}q = QuantizeLinear({x}, s, z) {to} = DequantizeLinear({to}q, s, z)"


def pair(x: str, to: str) -> str:
    """QuantizeLinear and DequantizeLinear of the activation `x`, which make `to`."""
    return PAIR.format(x=x, to=to)


def codes(*shape: int, dtype: type = I8) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 7 - 3).reshape(shape).astype(dtype)


def scales(*shape: int, dtype: type = F16) -> np.ndarray:
    return (0.01 + 0.001 * (np.arange(np.prod(shape)) % 5)).reshape(shape).astype(dtype)


ACT = {"s": scales().reshape(()), "z": np.zeros((), I8)}


@dataclass(frozen=True)
class File:
    """ONNX text and initializers; `but` makes another of it."""

    text: str
    arrays: dict[str, np.ndarray]
    opset: int = 21
    ir: int = 10

    def but(self, *changes: tuple[str, str], opset: int = 0, ir: int = 0, **arrays: np.ndarray) -> "File":
        text = self.text
        for old, new in changes:
            assert old in text, f"{old!r} is not in the text"
            text = text.replace(old, new)
        return File(text, self.arrays | arrays, opset or self.opset, ir or self.ir)

    def proto(self) -> onnx.ModelProto:
        made = model(self.text, self.opset, self.ir, **self.arrays)
        made.opset_import.extend(
            onnx.helper.make_opsetid(domain, 1) for domain in ("com.microsoft", "trt") if domain in self.text
        )
        return made


CONV = File(
    f"""g (float16[1,4,8,8] x) => (float16[1,4,8,8] y) {{
      {pair("x", "a")}
      w = DequantizeLinear<axis=0>(wq, ws, wz)
      y = Conv(a, w, b)
    }}""",
    ACT | {"wq": codes(4, 4, 1, 1), "ws": scales(4), "wz": np.zeros(4, I8), "b": scales(4)},
)
MATMUL8 = File(
    f"""g (float16[N,16] x) => (float16[N,16] y) {{
      {pair("x", "a")}
      w = DequantizeLinear<axis=1>(wq, ws)
      h = MatMul(a, w)
      y = Add(h, b)
    }}""",
    ACT | {"wq": codes(16, 16), "ws": scales(16), "b": scales(16)},
)
GEMM8 = File(
    f"""g (float16[N,16] x) => (float16[N,16] y) {{
      {pair("x", "a")}
      w = DequantizeLinear<axis=0>(wq, ws)
      y = Gemm<transB=1>(a, w, b)
    }}""",
    ACT | {"wq": codes(16, 16), "ws": scales(16), "b": scales(16)},
)
DECONV = File(
    f"""g (float16[1,4,8,8] x) => (float16[1,4,8,8] y) {{
      {pair("x", "a")}
      w = DequantizeLinear(wq, ws)
      y = ConvTranspose(a, w)
    }}""",
    ACT | {"wq": codes(4, 4, 1, 1), "ws": np.array(0.01, F16)},
)
INT4_MATMUL = File(
    """g (float16[N,128] x) => (float16[N,8] y) {
      w = DequantizeLinear<axis=0, block_size=64>(wq, ws)
      y = MatMul(x, w)
    }""",
    {"wq": codes(128, 8, dtype=I4), "ws": scales(2, 8)},
)
RESIDUAL = File(
    f"""g (float16[1,4,8,8] x) => (float16[1,4,8,8] y) {{
      {pair("x", "a")}
      w = DequantizeLinear<axis=0>(wq, ws, wz)
      h = Conv(a, w, b)
      r = Relu(h)
      {pair("r", "c")}
      v = DequantizeLinear<axis=0>(wq2, ws, wz)
      k = Conv(c, v, b)
      t = Add(k, a)
      y = Relu(t)
    }}""",
    CONV.arrays | {"wq2": codes(4, 4, 1, 1)},
)
FLOAT = File(
    "g (float16[N,16] x) => (float16[N,16] y) { h = MatMul(x, w) y = Relu(h) }", {"w": scales(16, 16)}
)
