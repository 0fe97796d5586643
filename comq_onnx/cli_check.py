"""``comq-onnx check``: what in a file a runtime would refuse, misread or run slowly."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comq_onnx.errors import ComqError
from comq_onnx.faults import faults_explained

if TYPE_CHECKING:
    from comq_onnx.run.tensorrt_ import Engine
    from comq_onnx.targets.findings import Finding, Rule

FAILED = 1


class RulesTarget(click.ParamType):
    """The name of a runtime that has rules; they are imported when one is asked for."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from comq_onnx.targets.rules import RULES

        if value not in RULES:
            self.fail(f"{value!r} is not one of {', '.join(map(repr, RULES))}.", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        from comq_onnx.targets.rules import RULES

        return f"[{'|'.join(RULES)}]"


@click.command(short_help="Say what in a file a runtime would refuse or run slowly.")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--target", type=RulesTarget(), help="Where the file will run.")
@click.option(
    "--build",
    is_flag=True,
    help="Build an engine too, where TensorRT for RTX is installed. No GPU is needed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--list-rules", is_flag=True, help="Print the rules, of one target or of all, and stop.")
def check(model: Path | None, target: str | None, build: bool, as_json: bool, list_rules: bool) -> None:
    """Say what in an ONNX MODEL, of whatever origin, breaks a rule of a runtime.

    One line for each finding: rule, severity, node, what is wrong, what to do. Exit codes: 0 no errors
    (warnings and notes at most), 1 errors, no engine is built, or the file cannot be read, 2 usage.
    """
    if list_rules:
        show_rules(target, as_json)
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    if target is None:
        raise click.UsageError("Missing option '--target'.")
    if build and target != "tensorrt":
        raise click.UsageError("--build is for --target tensorrt: no other runtime has engines.")
    from comq_onnx.targets.check import check as findings_of

    try:
        with faults_explained():
            found = findings_of(model, target)
            engine = engine_at(model) if build else None
    except ComqError as error:
        click.echo(f"comq-onnx: {error}", err=True)
        sys.exit(FAILED)
    counts = Counter(finding.severity for finding in found)
    show = as_object if as_json else as_text
    click.echo(show(model, target, found, engine))
    if counts["error"] or (engine and not engine.built):
        sys.exit(FAILED)


def engine_at(model: Path) -> "Engine":
    """What TensorRT makes of the file; dynamic axes range over what is usual."""
    from comq_onnx.evaluate.engines import engine_of

    return engine_of(model)


def as_text(model: Path, target: str, found: Sequence["Finding"], engine: "Engine | None" = None) -> str:
    """A line for each finding, one for the engine, and one that counts the findings."""
    lines = [f"{f.rule} {f.severity} {f.node}: {f.why}; {f.fix}." for f in found]
    errors = sum(f.severity == "error" for f in found)
    notes = sum(f.severity == "note" for f in found)
    counted = f"{_count(errors, 'error')}, {_count(len(found) - errors - notes, 'warning')}"
    counted += f", {_count(notes, 'note')}" if notes else ""
    if engine:
        from comq_onnx.evaluate.engines import told

        lines.append(f"{engine.runtime}: {told(engine)}.")
    return "\n".join([*lines, f"{model} for {target}: {counted}."])


def as_object(model: Path, target: str, found: Sequence["Finding"], engine: "Engine | None" = None) -> str:
    """The same as JSON."""
    counts = Counter(finding.severity for finding in found)
    whole = {
        "model": str(model),
        "target": target,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "notes": counts["note"],
        "findings": [asdict(finding) for finding in found],
    }
    if engine:
        whole["engine"] = {
            "runtime": engine.runtime,
            "built": engine.built,
            "error": engine.error,
            "bytes": engine.bytes,
            "seconds": engine.seconds,
            "constants": dict(engine.constants),
            "products": [asdict(product) for product in engine.products],
        }
    return json.dumps(whole, indent=1)


def show_rules(target: str | None, as_json: bool) -> None:
    """Every rule with what it demands; of all targets where none is named, and then as text once."""
    from comq_onnx.targets.rules import RULES

    names = [target] if target else list(RULES)
    if as_json:
        whole = [_described(name, rule) for name in names for rule in RULES[name]]
        click.echo(json.dumps(whole, indent=1))
        return
    for rule in {rule.id: rule for name in names for rule in RULES[name]}.values():
        click.echo(f"{rule.id} {rule.severity} {rule.demands}")


def _described(target: str, rule: "Rule") -> dict[str, str]:
    return {
        "target": target,
        "rule": rule.id,
        "severity": rule.severity,
        "demands": rule.demands,
        "fix": rule.fix,
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
