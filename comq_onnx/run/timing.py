"""How long models take in onnxruntime as it is deployed."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from comq_onnx.run.session import SessionOptions, open_session

FEWEST_ROUNDS, MOST_ROUNDS = 11, 100
ENOUGH_SECONDS = 0.3
"""Of the first model, where that takes no more than `MOST_ROUNDS`"""


def time_models(
    models: Sequence[onnx.ModelProto | Path], feeds: Mapping[str, np.ndarray], threads: int = 0
) -> list[float]:
    """Seconds of one run of each model, the median of many; the models take turns.

    Kernels may round activations, as deployments do. One thread is timed by its processor time, which other
    load on the machine hardly changes; more than one, or 0 for all cores, by the wall clock.
    """
    options = SessionOptions(exact=False, threads=threads)
    sessions = [open_session(model, options) for model in models]
    clock = time.thread_time if threads == 1 else time.perf_counter
    runs = [partial(session.run, feeds) for session in sessions]
    return [median(times) for times in take_turns(runs, clock)]


def take_turns(
    runs: Sequence[Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds of each call of each of `runs`, which take turns; all are called equally often."""
    spent: list[list[float]] = [[] for _ in runs]
    done, rounds = 0, FEWEST_ROUNDS
    while done < rounds:
        for run, times in zip(runs, spent, strict=True):
            if not done:
                run()  # the first run allocates, and its time is no other's
            start = clock()
            run()
            times.append(clock() - start)
        if not done:
            rounds = rounds_for(spent[0][0])
        done += 1
    return spent


def rounds_for(seconds: float) -> int:
    """How many runs a model is given that runs for `seconds`."""
    return max(FEWEST_ROUNDS, min(MOST_ROUNDS, math.ceil(ENOUGH_SECONDS / max(seconds, 1e-6))))
