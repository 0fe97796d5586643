"""Writes docs/rules.md: every rule of ``comq-onnx check``, from the code.

python tools/rules_table.py           # write it
python tools/rules_table.py --check   # exit with 1 if it is not current
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from comq_onnx.targets.findings import Rule
from comq_onnx.targets.rules import RULES

PAGE = Path(__file__).parents[1] / "docs" / "rules.md"
NAMES = {"ort": "onnxruntime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
INTRODUCTION = """# The rules of `comq-onnx check`

    comq-onnx check model.onnx --target tensorrt [--json]

reads any ONNX file, whoever wrote it, and prints a line for each place that breaks a rule of the runtime: its
rule, severity and node, what is wrong, what to do. An error does not load or computes something else; a
warning is slow, large or inexact. Exit code 1 if there is an error or the file cannot be read, 0 if not.
`--list-rules` prints the rules; `comq_onnx.check(model, target)` returns the findings in Python. Scales and
zero points are read, weights are not. The file is not run: a runtime may object where nothing is found.

This page is written by `tools/rules_table.py`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(_section(target, rules) for target, rules in RULES.items())])


def _section(target: str, rules: Sequence[Rule]) -> str:
    errors = sum(rule.severity == "error" for rule in rules)
    lines = [
        f"## {NAMES.get(target, target)} (`--target {target}`)",
        "",
        f"{errors} errors, {len(rules) - errors} warnings.",
        "",
        "| Rule | Severity | What must be true | What to do where it is not |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r.id} | {r.severity} | {_cell(r.demands)} | {_cell(r.fix)} |" for r in rules]
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
