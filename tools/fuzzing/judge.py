"""One attempt run as the command would run it, and what came of it."""

import os
import re
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
from click.testing import CliRunner, Result

from fuzzing.archives import make_data
from fuzzing.attempt import CANARY, OUTPUT, Attempt, lay_canary, rng_of
from fuzzing.models import make_model
from fuzzing.recipes import make_recipe

MAKERS = {"models": make_model, "data": make_data, "recipes": make_recipe}
GOOD = ("done", "refused", "usage")
STRANGE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
LONGEST = 1500
"""Characters of what is said of an input that is refused"""


@dataclass(frozen=True)
class Verdict:
    """`outcome` is one of `GOOD`, or what is wrong; `detail` says more; `place` tells findings apart."""

    outcome: str
    label: str
    detail: str = ""
    place: str = ""
    seconds: float = 0.0


def attempt_of(kind: str, seed: int, number: int, folder: Path) -> Attempt:
    """Make the files of one input in `folder`."""
    lay_canary(folder)
    return MAKERS[kind](rng_of(kind, seed, number), folder)


def judge(attempt: Attempt, folder: Path) -> Verdict:
    """Run the command line in `folder`; nothing is raised, whatever comes of it."""
    from comq_onnx.cli import main

    before, started = Path.cwd(), time.monotonic()
    os.chdir(folder)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = CliRunner().invoke(main, list(attempt.words))
    finally:
        os.chdir(before)
        sys.modules.pop("canary_module", None)
    outcome, detail, place = _judged(result, attempt, folder)
    if outcome in GOOD and warned:
        first = warned[0]
        outcome, detail = "warning", f"{first.category.__name__}: {first.message}"
        place = f"{Path(first.filename).name}:{first.lineno}"
    return Verdict(outcome, attempt.label, detail, place, time.monotonic() - started)


def _judged(result: Result, attempt: Attempt, folder: Path) -> tuple[str, str, str]:
    error = result.exception
    if (folder / CANARY).exists() and not attempt.may_run:
        return "code was run", "", ""
    if error is not None and not isinstance(error, SystemExit):
        return "traceback", "".join(traceback.format_exception(error)), _place(error)
    left = [path.name for path in (*folder.glob(".comq-*"), *folder.glob("*.part"))]
    if left:
        return "left over", str(left), ""
    output = folder / OUTPUT
    if result.exit_code in (1, 2) and output.exists():
        return "output of a failed run", result.stderr, ""
    if result.exit_code == 0:
        return _done(result, attempt, output)
    if result.exit_code == 2 and "Usage:" in result.stderr:
        return "usage", result.stderr, ""
    if result.exit_code == 1 and attempt.words[0] == "check" and result.stdout:
        return _done(result, attempt, output)  # of a file that breaks rules
    if result.exit_code != 1:
        return f"exit code {result.exit_code}", result.stderr, ""
    return _refused(result.stderr)


def _done(result: Result, attempt: Attempt, output: Path) -> tuple[str, str, str]:
    writes = attempt.words[0] not in ("inspect", "check", "compare")
    if writes and not {"--dry-run", "--preview-data"} & set(attempt.words):
        if not output.exists():
            return "no output", result.stdout, ""
        onnx.load(output)
    page = output.with_name("report.html")
    if page.exists() and "<script>alert" in page.read_text(encoding="utf-8"):
        return "script in the report", "", ""
    if STRANGE.search(result.stdout):
        return "control characters", repr(result.stdout), "stdout"
    return "done", "", ""


def _refused(said: str) -> tuple[str, str, str]:
    """Of a sentence that ends in a full stop, and of nothing else."""
    start = said.find("comq-onnx: ")
    sentence = said[start:].rstrip("\n") if start >= 0 else ""
    if not sentence:
        return "nothing said", repr(said), ""
    if "\n" in sentence or not sentence.endswith("."):
        return "no sentence", repr(sentence), sentence[:60]
    if STRANGE.search(sentence):
        return "control characters", repr(sentence), re.sub(r"'.*'", "", sentence)[:60]
    if len(sentence) > LONGEST:
        return "a long sentence", sentence, ""
    return "refused", sentence, ""


def _place(error: BaseException) -> str:
    """The innermost line of the package that the error passed, and its type."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "comq_onnx" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{type(error).__name__} {Path(frame.filename).name}:{frame.lineno} {frame.name}"
