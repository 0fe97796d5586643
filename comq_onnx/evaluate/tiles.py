"""The head of the page: size, fidelity, time, target, where the file was verified, what stayed float."""

import math
from dataclasses import dataclass

from comq_onnx.evaluate.parity import NAMES
from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.table import as_float16, decibel, duration
from comq_onnx.records import LayerReport

NOT_LOOKED_AT = "not looked at"
"""How the detail of a check begins that was not made"""


@dataclass(frozen=True)
class Tile:
    """A number with its name and a few words."""

    name: str
    value: str
    more: str


def tiles(report: Report) -> list[Tile]:
    """In the order in which they are read."""
    share = report.bytes_after / report.bytes_before
    made_up = "on made-up inputs" if report.synthetic else "on calibration samples"
    dropped = sum(line.bytes_before for line in report.kept)
    return [
        Tile(
            "Size",
            f"{size(report.bytes_before)} → {size(report.bytes_after)}",
            f"{share:.2f}x: {report.bytes_before:,} → {report.bytes_after:,} bytes",
        ),
        Tile("Fidelity", *_fidelity(report, made_up)),
        Tile("Weights quantized", f"{len(report.quantized)} of {len(report.lines)}", _rest(report, dropped)),
        Tile("Time", duration(report.seconds), f"with effort {report.recipe.get('effort', 'normal')}"),
        Tile(
            "Target",
            report.target,
            ", ".join(dict.fromkeys(line.form for line in report.quantized)) or "no codes",
        ),
        Tile("Verified", *_verified(report)),
    ]


def kept_by_reason(report: Report) -> list[tuple[str, list[LayerReport]]]:
    """Weights that stay float by why they do, most bytes first."""
    found: dict[str, list[LayerReport]] = {}
    for line in report.kept:
        found.setdefault(line.reason, []).append(line)
    return sorted(found.items(), key=lambda item: -sum(line.bytes_before for line in item[1]))


def runtimes(report: Report) -> list[str]:
    """Where the file was run."""
    checks = [check for check in report.verification.checks if not check.detail.startswith(NOT_LOOKED_AT)]
    here = ["onnxruntime"] if any(check.name == "runs in onnxruntime" for check in checks) else []
    return [*here, *(name for name in NAMES.values() if any(c.name.startswith(f"{name} =") for c in checks))]


def size(count: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB" if count < 1000 else f"{count:,.0f} GB"


def _fidelity(report: Report, where: str) -> tuple[str, str]:
    """Of the output that is furthest from the float model's."""
    lines = report.verification.fidelity
    worst = min(
        (line for line in lines if line.sqnr_db is not None), key=lambda one: one.sqnr_db or 0.0, default=None
    )
    if worst is not None and worst.sqnr_db is not None:
        error = f": {10 ** (-worst.sqnr_db / 20):.2%} relative error" if math.isfinite(worst.sqnr_db) else ""
        return f"{decibel(worst.sqnr_db)} dB", f"output {worst.output}{error} {where}"
    shares = [line for line in lines if line.agreement is not None]
    if shares:
        least = min(shares, key=lambda line: line.agreement or 0.0)
        return f"{least.agreement:.1%}", f"of the entries of output {least.output} are equal {where}"
    return "not known", "no output could be compared with the float model's"


def _rest(report: Report, dropped: int) -> str:
    kept = f"{len(report.kept)} kept float ({size(dropped)})" if report.kept else "none kept float"
    return as_float16(report.halved) + kept


def _verified(report: Report) -> tuple[str, str]:
    checks = report.verification.checks
    passed = sum(check.ok for check in checks)
    value = f"{passed} of {len(checks)} checks" if passed < len(checks) else f"all {passed} checks"
    ran = runtimes(report)
    where = f"run in {', '.join(ran)}" if ran else "not run in any runtime"
    failed = [check.name for check in checks if not check.ok]
    return value, "; ".join([*([f"failed: {', '.join(failed)}"] if failed else []), where])
