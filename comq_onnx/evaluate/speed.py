"""How fast this machine multiplies, measured in passing."""

import time
from dataclasses import dataclass

import numpy as np

from comq_onnx.backends.engine import cpu_engine, single_threaded_blas

SIZE = 512
SECONDS = 0.05


@dataclass(frozen=True)
class Speed:
    """Multiply-adds per second of large float32 products."""

    products: float
    """On all threads together"""
    threads: int


def measured_speed(threads: int = 0) -> Speed:
    """The speed on `threads` cores, 0 for all of them, as if nothing else ran on them.

    The shortest processor time of a product counts: what else runs would make the mean of so short a
    measurement worth nothing.
    """
    engine = cpu_engine(threads)
    square = np.full((SIZE, SIZE), 0.5, np.float32)

    def shortest(_: int) -> float:
        out = square @ square  # the first call brings the library up
        spent, least = 0.0, float("inf")
        while spent < SECONDS:
            started = time.thread_time()
            np.matmul(square, square, out=out)
            took = time.thread_time() - started
            spent, least = spent + took, min(least, took)
        return least

    with single_threaded_blas():
        measured = list(engine.map(shortest, range(engine.threads)))
    return Speed(sum(SIZE**3 / seconds for seconds in measured), engine.threads)
