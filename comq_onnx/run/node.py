"""Run files in onnxruntime-node and onnxruntime-web (WebAssembly, one thread) under Node.

The packages are found as Node finds them from the working directory, or from the folder that the environment
variable ``COMQ_NODE_MODULES`` names: a ``node_modules``, or a folder that has one.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comq_onnx.errors import ComqError
from comq_onnx.run.exchange import (
    TIMEOUT,
    Feeds,
    Outputs,
    converse,
    fitted,
    read_arrays,
    read_header,
    write_arrays,
)
from comq_onnx.run.reason import reason

NODE, WEB = "onnxruntime-node", "onnxruntime-web"
VARIABLE = "COMQ_NODE_MODULES"
SCRIPT = Path(__file__).with_name("infer.mjs")


def node_missing(package: str, folder: Path | None = None) -> str:
    """Why `package` cannot be used, as a clause; empty where it can. `folder` as for `outputs_in_node`."""
    program = shutil.which("node")
    if program is None:
        return "node is not installed"
    with tempfile.TemporaryDirectory(prefix="comq-") as name:
        request = {"task": "find", "package": package, "from": str(_origin(folder))}
        reply = converse([program, str(SCRIPT)], Path(name), request, 60)
    if reply.problem:
        return f"node does not work: {reply.problem}"
    return _not_found(package, folder) if reply.answer.get("missing") else ""


def outputs_in_node(
    package: str, path: Path, batches: Sequence[Feeds], folder: Path | None = None, timeout: float = TIMEOUT
) -> Outputs:
    """What the file at `path` answers to each batch in `package` (`NODE` or `WEB`).

    `folder` is where the package is looked for, None: as the module says. `timeout` is in seconds.
    ComqError where it is not found, or does not load, run or survive the file.
    """
    header = read_header(path)
    fed = [fitted(header, feeds, path.name) for feeds in batches]
    with tempfile.TemporaryDirectory(prefix="comq-") as name:
        there = Path(name)
        request = _request("infer", package, [path], folder) | {"batches": write_arrays(there, fed)}
        answer = _ask(there, request, folder, timeout)
        return read_arrays(there, answer["batches"])


def time_in_node(
    package: str,
    paths: Sequence[Path],
    feeds: Feeds,
    repeats: int,
    folder: Path | None = None,
    timeout: float = TIMEOUT,
) -> list[list[float]]:
    """Seconds of CPU time of `repeats` runs of each file, on one thread, after one that is not counted.

    All files are open in one process and take turns, so that other load falls on all of them.
    """
    fed = fitted(read_header(paths[0]), feeds, paths[0].name)
    with tempfile.TemporaryDirectory(prefix="comq-") as name:
        there = Path(name)
        request = _request("time", package, paths, folder)
        request |= {"batches": write_arrays(there, [fed]), "repeats": repeats, "threads": 1}
        return _ask(there, request, folder, timeout)["seconds"]


def _request(task: str, package: str, paths: Sequence[Path], folder: Path | None) -> dict[str, Any]:
    models = [{"path": str(path.resolve()), "external": read_header(path).external} for path in paths]
    return {"task": task, "package": package, "from": str(_origin(folder)), "models": models, "threads": 0}


def _ask(there: Path, request: Mapping[str, Any], folder: Path | None, timeout: float) -> dict[str, Any]:
    """The program's answer; ComqError where there is none."""
    program, package = shutil.which("node"), request["package"]
    if program is None:
        raise ComqError("node is not installed", where=package)
    where = Path(request["models"][0]["path"]).name
    reply = converse([program, str(SCRIPT)], there, request, timeout)
    if reply.answer.get("missing"):
        raise ComqError(_not_found(package, folder))
    if error := reply.answer.get("error"):
        raise ComqError(f"{package} does not run the file: {reason(RuntimeError(error))}", where=where)
    if not reply.answer:
        raise ComqError(f"{package} gave no answer: {reply.problem or 'it ended early'}", where=where)
    return reply.answer


def _origin(folder: Path | None) -> Path:
    return (folder or Path(os.environ.get(VARIABLE) or Path.cwd())).resolve()


def _not_found(package: str, folder: Path | None) -> str:
    return (
        f"{package} is not found from {_origin(folder)} "
        f"(npm install {package} there, or name a folder that has it in {VARIABLE})"
    )
