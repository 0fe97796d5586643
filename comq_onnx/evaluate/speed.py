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

    By processor time: what else runs would make a measurement this short worth nothing.
    """
    engine = cpu_engine(threads)
    square = np.full((SIZE, SIZE), 0.5, np.float32)

    def products(_: int) -> tuple[int, float]:
        out = square @ square  # the first call brings the library up
        done, started = 0, time.thread_time()
        while time.thread_time() - started < SECONDS:
            np.matmul(square, square, out=out)
            done += 1
        return done, time.thread_time() - started

    with single_threaded_blas():
        measured = list(engine.map(products, range(engine.threads)))
    return Speed(sum(done * SIZE**3 / seconds for done, seconds in measured), engine.threads)
