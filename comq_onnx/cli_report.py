"""``--report``: the files that it names, checked before the work and written after it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comq_onnx.errors import ComqError
from comq_onnx.interrupt import put_whole

if TYPE_CHECKING:
    from comq_onnx.evaluate.report import Report

REPORTS = (".json", ".html")


def write_reports(report: "Report", paths: Sequence[Path]) -> None:
    """As JSON for machines, or as a page for people, by the name of each file."""
    for path in dict.fromkeys(paths):
        text = _as_page(report) if path.suffix == ".html" else json.dumps(report.as_dict(), indent=1) + "\n"
        try:
            put_whole(path, text.encode())
        except OSError as error:
            raise ComqError(
                f"the report cannot be written ({error.strerror})",
                where=f"--report {path}",
                fix="the model is written; choose another file for the report",
            ) from None


def _as_page(report: "Report") -> str:
    from comq_onnx.evaluate.page import page

    return page(report)


def check_report_paths(paths: Sequence[Path]) -> None:
    """ComqError where one of them cannot be written, or its name says no form."""
    for path in paths:
        where = f"--report {path}"
        if path.suffix not in REPORTS:
            raise ComqError("a report is written as JSON or HTML", where=where, fix="name it .json or .html")
        if path.is_dir():
            raise ComqError("the report is a folder", where=where, fix="name a file in it")
        if not path.parent.is_dir():
            raise ComqError("the report's folder does not exist", where=where, fix="create it first")
