"""Run a file in OpenVINO, in a process of its own: a file it cannot take may end the process.

Two settings decide what a measurement means. By default OpenVINO computes weight-only products with int8
activations, and in bfloat16 where the CPU has it; at exact settings it computes in float32.
"""

import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

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

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
CHILD = Path(__file__).with_name("openvino_child.py")


def openvino_missing() -> str:
    """Why OpenVINO cannot be used, as a clause; empty where it can."""
    return "" if find_spec("openvino") else "openvino is not installed (pip install openvino)"


def run_openvino(path: Path, feeds: Feeds, exact: bool) -> dict[str, np.ndarray]:
    """Outputs of the file at `path` by name. ComqError where OpenVINO does not load, run or survive it.

    With `exact` in float32 without int8 activations, else as it computes when nothing is set.
    """
    (found,) = outputs_in_openvino(path, [feeds], [exact])
    if isinstance(found, ComqError):
        raise found
    return found[0]


def outputs_in_openvino(
    path: Path, batches: Sequence[Feeds], exact: Sequence[bool], timeout: float = TIMEOUT
) -> list[Outputs | ComqError]:
    """What the file at `path` answers to each batch at each of the settings: one process for all.

    An error stands for the settings at which there is no answer; if the process dies, for the later ones too.
    ComqError is raised where OpenVINO is missing or the feeds do not fit. `timeout` is in seconds.
    """
    if missing := openvino_missing():
        raise ComqError(missing)
    header, where = read_header(path), path.name
    fed = [fitted(header, feeds, where) for feeds in batches]
    with tempfile.TemporaryDirectory(prefix="comq-") as name:
        folder = Path(name)
        request = {
            "model": str(path.resolve()),
            "outputs": header.outputs,
            "options": [EXACT if chosen else {} for chosen in exact],
            "batches": write_arrays(folder, fed),
        }
        # -P: the script's own folder is not searched for modules.
        reply = converse([sys.executable, "-P", str(CHILD)], folder, request, timeout)
        found: list[Outputs | ComqError] = []
        for answer in reply.answer.get("answers", []):
            error = answer.get("error")
            found.append(
                ComqError(f"OpenVINO does not run the file: {error}", where=where)
                if error
                else read_arrays(folder, answer["batches"])
            )
    lost = ComqError(f"OpenVINO gave no answer: {reply.problem or 'it ended early'}", where=where)
    return found + [lost] * (len(exact) - len(found))
