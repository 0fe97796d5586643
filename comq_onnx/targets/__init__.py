"""What each runtime accepts, and how a solution is written for it."""

from comq_onnx.targets.fakequant import FAKEQUANT
from comq_onnx.targets.openvino import OPENVINO
from comq_onnx.targets.ort import ORT
from comq_onnx.targets.portable import PORTABLE
from comq_onnx.targets.target import Target, Written
from comq_onnx.targets.tensorrt import TENSORRT
from comq_onnx.targets.web import WEB

TARGETS: dict[str, Target] = {
    "portable": PORTABLE,
    "ort": ORT,
    "tensorrt": TENSORRT,
    "openvino": OPENVINO,
    "web": WEB,
    "fakequant": FAKEQUANT,
}

__all__ = ["TARGETS", "Target", "Written"]
