"""Writes docs/rules.md: every rule of ``comq-onnx check``, from the code.

python tools/rules_table.py           # write it
python tools/rules_table.py --check   # exit with 1 if it is not current
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

from comq_onnx.targets.findings import Rule, Severity
from comq_onnx.targets.rules import RULES

PAGE = Path(__file__).parents[1] / "docs" / "rules.md"
NAMES = {"ORT": "onnxruntime", "OV": "OpenVINO", "TRT": "TensorRT", "WEB": "onnxruntime-web"}
"""What a rule is measured with, or read from, by how its id begins."""
SEVERITIES = get_args(Severity)
INTRODUCTION = """# The rules of `comq-onnx check`

    comq-onnx check model.onnx --target tensorrt [--json]

reads any ONNX file, whoever wrote it, and prints a line for each place that breaks a rule of the runtime: its
rule, severity and node, what is wrong, what to do. An error does not load or computes something else; a
warning is slow, large or inexact; a note is one of these on some machines. Exit code 1 if there is an error
or the file cannot be read, 0 if not: warnings and notes alone are no failure. `--list-rules` prints the
rules; `comq_onnx.check(model, target)` returns the findings in Python. Scales and zero points are read, and
of weights the int8 codes that ORT-N01 looks at. The file is not run: a runtime may object where nothing is
found. For `tensorrt`, `--build` also has TensorRT for RTX build an engine, where it is installed
([targets](targets.md#tensorrt)); exit code 1 if it refuses.

A target asks for what its runtimes ask for: `portable` is to run in onnxruntime and in OpenVINO, `web` where
onnxruntime is built for WASM. A breach that is an error in one of two runtimes is listed as that for both.

This page is written by `tools/rules_table.py`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, _targets(), *(_section(stem) for stem in NAMES)])


def _targets() -> str:
    lines = ["| `--target` | Errors | Warnings | Notes |", "|---|---|---|---|"]
    for target, rules in RULES.items():
        counts = Counter(rule.severity for rule in rules)
        lines.append(f"| {target} | {counts['error']} | {counts['warning']} | {counts['note']} |")
    return "\n".join(lines) + "\n"


def _section(stem: str) -> str:
    """The rules whose ids begin with `stem`, each once, with the targets that have it."""
    rules: dict[str, Rule] = {}
    for rule in (rule for of_target in RULES.values() for rule in of_target):
        if rule.id.split("-")[0] == stem:
            rules.setdefault(rule.id, rule)
    lines = [
        f"## {NAMES[stem]}",
        "",
        "| Rule | Severity | Targets | What must be true | What to do where it is not |",
        "|---|---|---|---|---|",
    ]
    for rule in sorted(rules.values(), key=lambda r: (SEVERITIES.index(r.severity), r.id)):
        targets = ", ".join(t for t, of_target in RULES.items() if rule in of_target)
        lines.append(
            f"| {rule.id} | {rule.severity} | {targets} | {_cell(rule.demands)} | {_cell(rule.fix)} |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/rules.md from the code.")
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    if parser.parse_args().check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/rules.md is not current; run: python tools/rules_table.py")
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
