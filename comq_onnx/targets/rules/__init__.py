"""What each runtime asks of a file, as rules: a module for each runtime, and the breaches they look for."""

from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules import onnxruntime, openvino, portable, tensorrt, web

RULES: dict[str, tuple[Rule, ...]] = {
    "portable": portable.RULES,
    "ort": onnxruntime.RULES,
    "tensorrt": tensorrt.RULES,
    "openvino": openvino.RULES,
    "web": web.RULES,
}

__all__ = ["RULES"]
