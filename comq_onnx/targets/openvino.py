"""OpenVINO: weights that its CPU plugin keeps compressed, 2-bit codes in int4, 8-bit activations as uint8.

It needs Q/DQ at the inputs of layers alone: what follows a layer is taken into its kernel, and its output is
rounded where the next layer wants it so. Stored outputs gain no time, cost accuracy, and are miscomputed in
front of a Concat with a constant (OpenVINO 2026.4, seen on a ViT's patches beside its class token).
"""

from dataclasses import replace

from comq_onnx.targets import ort
from comq_onnx.targets.qdq import QdqTarget
from comq_onnx.targets.rules import openvino

EIGHT_BIT = replace(ort.EIGHT_BIT, outputs=frozenset())
OPENVINO = QdqTarget(
    name="openvino", packed_int2=False, rules=openvino.RULES, eight_bit=EIGHT_BIT, for_onnxruntime=False
)
