"""What onnxruntime and OpenVINO ask of a file that is to run in both; each rule keeps its runtime's id."""

from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules import onnxruntime, openvino


def joined(first: tuple[Rule, ...], second: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Both sets, with what both look for once: as the error where it is one for either."""
    errors = {rule.breaches for rule in second if rule.severity == "error"}
    kept = tuple(rule for rule in first if rule.severity == "error" or rule.breaches not in errors)
    known = {rule.breaches for rule in kept}
    return (*kept, *(rule for rule in second if rule.breaches not in known))


RULES: tuple[Rule, ...] = joined(onnxruntime.RULES, openvino.RULES)
