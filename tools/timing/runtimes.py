"""Time files in a runtime: all in one process, taking turns, on one thread.

onnxruntime is timed by the CPU time of its thread, OpenVINO and Node by that of their process: other load on
the machine hardly changes it.
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

from comq_onnx.errors import ComqError
from comq_onnx.run.node import NODE, WEB, node_missing, time_in_node
from comq_onnx.run.openvino_ import openvino_missing
from comq_onnx.run.reason import reason
from comq_onnx.run.session import RUNTIME_ERRORS

Feeds = dict[str, np.ndarray]
Seconds = list[list[float]]
RUNTIMES = ("ort", "openvino", NODE, WEB)
TARGETS = {"ort": "ort", "openvino": "openvino", NODE: "ort", WEB: "web"}
"""The target whose files a runtime is given"""
TIMEOUT = 1800.0
ENOUGH_SECONDS, MOST_ROUNDS = 0.5, 200
"""Fast files take more rounds: until the first has run for so long, up to so many"""


def missing(runtime: str, folder: Path | None) -> str:
    """Why a runtime cannot be used; empty where it can."""
    if runtime == "ort":
        return ""
    return openvino_missing() if runtime == "openvino" else node_missing(runtime, folder)


def timed(
    runtime: str, paths: Sequence[Path], feeds: Feeds, rounds: int, folder: Path | None
) -> list[float | str]:
    """Seconds of one run of each file, the median; the reason for a file that does not run.

    Should one file fail, each is timed beside the first alone, so that the others have their numbers, which
    are scaled to one time of the first file.
    """
    try:
        return [median(times) for times in _measure(runtime, paths, feeds, rounds, folder)]
    except ComqError as error:
        if len(paths) == 1:
            raise
        if len(paths) == 2:
            return [*timed(runtime, paths[:1], feeds, rounds, folder), str(error)]
    found = [timed(runtime, [paths[0], path], feeds, rounds, folder) for path in paths[1:]]
    base = float(found[0][0])
    return [base, *(t if isinstance(t, str) else t / float(first) * base for first, t in found)]


def _measure(runtime: str, paths: Sequence[Path], feeds: Feeds, rounds: int, folder: Path | None) -> Seconds:
    """Seconds of each round of each file. ComqError where one does not run."""
    if runtime in (NODE, WEB):
        return time_in_node(runtime, paths, feeds, rounds, folder, TIMEOUT)
    work = time_in_onnxruntime if runtime == "ort" else time_in_openvino
    # A process of its own: a file that a runtime cannot take may end it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(work, list(paths), feeds, rounds).result()
        except BrokenProcessPool:
            raise ComqError(f"{runtime} ended early") from None
        except RuntimeError as error:
            raise ComqError(f"{runtime} does not run the file: {error}") from None


def time_in_onnxruntime(paths: Sequence[Path], feeds: Feeds, rounds: int) -> Seconds:
    """RuntimeError where a file does not run, as onnxruntime's own errors do not cross processes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        sessions = [
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for path in paths
        ]
        runs = [partial(session.run, None, read_by(session, feeds)) for session in sessions]
        return turns(runs, rounds, time.thread_time)
    except RUNTIME_ERRORS as error:
        raise RuntimeError(reason(error)) from None


def time_in_openvino(paths: Sequence[Path], feeds: Feeds, rounds: int) -> Seconds:
    import openvino

    core, runs = openvino.Core(), []
    for path in paths:
        compiled = core.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1"})
        known = {name for port in compiled.inputs for name in port.get_names()}
        request = compiled.create_infer_request()
        runs.append(partial(request.infer, {k: v for k, v in feeds.items() if k in known}))
    return turns(runs, rounds, time.process_time)


def read_by(session: onnxruntime.InferenceSession, feeds: Feeds) -> Feeds:
    return {node.name: feeds[node.name] for node in session.get_inputs()}


def turns(runs: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], float]) -> Seconds:
    """Each in turn, after one time that is not counted; more rounds where they are short."""
    for run in runs:
        run()
    start = clock()
    runs[0]()
    rounds = rounds_for(clock() - start, rounds)
    seconds: Seconds = [[] for _ in runs]
    for _ in range(rounds):
        for run, times in zip(runs, seconds, strict=True):
            start = clock()
            run()
            times.append(clock() - start)
    return seconds


def rounds_for(seconds: float, least: int) -> int:
    """How many rounds a file that runs for `seconds` is given."""
    return max(least, min(MOST_ROUNDS, math.ceil(ENOUGH_SECONDS / max(seconds, 1e-6))))
