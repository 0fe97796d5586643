"""What a file breaks of a runtime's rules, whoever wrote it."""

from pathlib import Path

from onnx import ModelProto

from comq_onnx.errors import ComqError
from comq_onnx.graph.io import read_message
from comq_onnx.targets.findings import Finding, Rule, findings
from comq_onnx.targets.rules import RULES


def check(model: str | Path | ModelProto, target: str) -> tuple[Finding, ...]:
    """Everything in `model` that breaks a rule of the runtime `target`, in the order of the rules.

    `target` is one of the keys of `comq_onnx.targets.rules.RULES`. The model is only read, and its weights
    only where a rule asks for their values. Empty where nothing is wrong.

    Raises
    ------
    ComqError
        The file is missing, is not ONNX or is damaged; or there are no rules for `target`.
    """
    rules = rules_of(target)
    if isinstance(model, ModelProto):
        return findings(model, rules)
    path = Path(model)
    return findings(read_message(path), rules, path.parent)


def rules_of(target: str) -> tuple[Rule, ...]:
    """The rules of a runtime; ComqError where there are none."""
    if target not in RULES:
        raise ComqError(
            "there are no rules for it", where=f"target {target!r}", fix=f"name one of {', '.join(RULES)}"
        )
    return RULES[target]
