"""One file for onnxruntime, OpenVINO and whatever else reads opset 21: 2-bit codes lie in int4 tensors."""

from comq_onnx.targets.rules import portable
from comq_onnx.targets.weight_only import WeightOnly

PORTABLE = WeightOnly(name="portable", packed_int2=False, rules=portable.RULES)
