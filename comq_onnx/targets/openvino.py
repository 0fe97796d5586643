"""OpenVINO: weights that its CPU plugin keeps compressed, 2-bit codes in int4, 8-bit activations as uint8."""

from comq_onnx.targets import ort
from comq_onnx.targets.rules import openvino
from comq_onnx.targets.weight_only import WeightOnly

OPENVINO = WeightOnly(name="openvino", packed_int2=False, rules=openvino.RULES, eight_bit=ort.EIGHT_BIT)
