"""What a written file is worth: whether runtimes load it, whether they agree on it, how it scores.

Each question is put to a process of its own, forked from this one so that the data need not be made again: a
file may end the process that opens it.
"""

import multiprocessing
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from zoo.model import Feed, Task
from zoo.runner import run_all

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.agreement import Outputs, deviation
from comq_onnx.run.openvino_ import outputs_in_openvino
from comq_onnx.run.reason import reason
from comq_onnx.run.session import RUNTIME_ERRORS, SessionOptions, open_session, outputs_on
from peers.process import shortened

COMPARED = 4
"""Feeds on which runtimes are compared"""
WAYS = {"plain": "onnxruntime as written", "optimised": "onnxruntime optimised", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Verdict:
    """Of one file. `loads` holds, by way, an empty text or why not; `agrees` the relative L2 distance of the
    optimised and of OpenVINO's outputs from those of the file as it is written, at exact settings."""

    loads: dict[str, str]
    agrees: dict[str, float]
    scores: dict[str, float]
    problem: str = ""
    """Why there are no scores"""


def judge(path: Path, task: Task, reference: list[Any], threads: int, seconds: float) -> Verdict:
    """Run `path` in every runtime, then score it on all test feeds."""
    feeds = task.test[:COMPARED]
    answers = {way: apart(_outputs, (way, path, feeds), seconds) for way in WAYS}
    loads = {way: "" if isinstance(found, list) else str(found) for way, found in answers.items()}
    agrees = {
        way: _distance(answers["plain"], answers[way])
        for way in ("optimised", "openvino")
        if not loads["plain"] and not loads[way]
    }
    made = apart(reduced, (path, task, threads), seconds)
    if isinstance(made, str):
        return Verdict(loads, agrees, {}, made)
    return Verdict(loads, agrees, task.score(reference, made))


def reduced(path: Path, task: Task, threads: int) -> list[Any]:
    """What the scores need of every test feed's outputs, at exact settings."""
    return run_all(path, task.test, task.reduce, threads)


def _outputs(way: str, path: Path, feeds: Sequence[Feed]) -> Outputs:
    if way != "openvino":
        return outputs_on(open_session(path, SessionOptions(optimize=way == "optimised")), feeds)
    (found,) = outputs_in_openvino(path, feeds, [True])
    if isinstance(found, ComqError):
        raise found
    return found


def _distance(expected: Outputs, found: Outputs) -> float:
    return max(deviation(expected, found, key) for key in expected[0])


def apart(work: Callable[..., list[Any]], given: tuple, seconds: float) -> list[Any] | str:
    """What `work` returns, from a process of its own; or one line that says why it returns nothing."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, work, given))
    child.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return f"no answer in {seconds:g} s"
        return receiver.recv()
    except EOFError:
        child.join()
        return f"the process ended by signal {-(child.exitcode or 0)}"
    finally:
        child.kill()
        child.join()


def _answer(sender: Connection, work: Callable[..., list[Any]], given: tuple) -> None:
    try:
        sender.send(work(*given))
    except ComqError as error:
        sender.send(_told(str(error)))
    except RUNTIME_ERRORS as error:
        sender.send(_told(reason(error)))


def _told(text: str) -> str:
    """What went wrong, without the temporary file's path and what is said of every file."""
    text = re.sub(r"Load model from \S+ failed: ?", "", text)
    return shortened(
        re.sub(r"^\S+\.onnx: (onnxruntime|OpenVINO) does not (load|run) the (model|file): ", "", text)
    )
