"""``--report``: the file that it names, checked before the work and written after it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from comq_onnx.errors import ComqError
from comq_onnx.interrupt import held_back

if TYPE_CHECKING:
    from comq_onnx.evaluate.report import Report

REPORTS = (".json", ".html")


def write_report(report: "Report", path: Path) -> None:
    """As JSON for machines, or as a page for people, by the name of the file."""
    from comq_onnx.evaluate.page import page

    text = page(report) if path.suffix == ".html" else json.dumps(report.as_dict(), indent=1) + "\n"
    try:
        with held_back():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ComqError(
            f"the report cannot be written ({error.strerror})",
            where=f"--report {path}",
            fix="the model is written; choose another file for the report",
        ) from None


def check_report_path(path: Path | None) -> None:
    if path and path.suffix not in REPORTS:
        raise ComqError(
            "a report is written as JSON or HTML",
            where=f"--report {path}",
            fix="name it .json or .html",
        )
    if path and path.is_dir():
        raise ComqError("the report is a folder", where=f"--report {path}", fix="name a file in it")
    if path and not path.parent.is_dir():
        raise ComqError("the report's folder does not exist", where=f"--report {path}", fix="create it first")
