"""What each runtime asks of a file, as rules."""

from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules import tensorrt

RULES: dict[str, tuple[Rule, ...]] = {"tensorrt": tensorrt.RULES}

__all__ = ["RULES"]
