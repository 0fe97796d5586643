"""onnxruntime alone: the portable file, and 2-bit codes packed as int2 (opset 25, onnxruntime 1.24 on)."""

from comq_onnx.targets.rules import onnxruntime
from comq_onnx.targets.weight_only import WeightOnly

ORT = WeightOnly(name="ort", packed_int2=True, rules=onnxruntime.RULES)
