"""Files as they should be, and what onnxruntime makes of each."""

from dataclasses import dataclass

import onnx

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
