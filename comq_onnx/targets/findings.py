"""What is wrong with a file for a runtime: rules, and what they find."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from comq_onnx.targets.view import View

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One place of a file that breaks a rule."""

    rule: str
    """Its id, such as ``TRT-E16``"""
    severity: Severity
    """``error``: it does not load, or computes something else; ``warning``: it is slow, large or inexact;
    ``note``: it is one of these on some machines"""
    node: str
    """Name of the node or tensor; ``the model`` where it is the whole file"""
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.rule} {self.node}: {self.why}; {self.fix}"


@dataclass(frozen=True)
class Rule:
    """One thing that must be true of a file, and how it is found out that it is not."""

    id: str
    severity: Severity
    demands: str
    """The rule, as a sentence in the present tense"""
    fix: str
    """What to do where it is broken, as a clause"""
    breaches: Callable[[View], Iterable[tuple[str, str]]]
    """Pairs of the node's name and why it breaks the rule"""


def findings(
    proto: onnx.ModelProto, rules: Sequence[Rule], folder: Path | None = None
) -> tuple[Finding, ...]:
    """Everything in a file that breaks one of `rules`, in their order. The file is not changed.

    `folder` is where it lies: scales in external files are read from there.
    """
    view = View(proto, folder)
    return tuple(
        Finding(rule.id, rule.severity, node, why, rule.fix)
        for rule in rules
        for node, why in rule.breaches(view)
    )
