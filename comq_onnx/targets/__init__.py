"""What each runtime accepts, and how a solution is written for it."""

from comq_onnx.targets.ort import ORT
from comq_onnx.targets.portable import PORTABLE
from comq_onnx.targets.target import Target, Written

TARGETS: dict[str, Target] = {"portable": PORTABLE, "ort": ORT}

__all__ = ["TARGETS", "Target", "Written"]
