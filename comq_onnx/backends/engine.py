"""Which backend computes, and on how many threads."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from comq_onnx.backends import numpy_
from comq_onnx.backends.protocol import Backend

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Engine:
    """A backend and the threads that share its work.

    Work is cut by sizes alone, never by the number of threads, and a matrix product runs on one thread, so
    results have the same bits on any number of them.
    """

    backend: Backend
    threads: int = 1
    cells: int = 1 << 17
    """Weights of a layer that are solved together: on a CPU, what the second cache of a core can hold"""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`function` of every item, in order, on the engine's threads."""
        todo = list(items)
        if self.threads == 1 or len(todo) < 2:
            yield from map(function, todo)
            return
        yield from on_threads(self.threads, function, todo)


def on_threads(threads: int, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of every item, in order, on so many threads beside the one that takes the results."""
    pool, wait = ThreadPoolExecutor(threads), True
    try:
        yield from pool.map(function, items)
    except KeyboardInterrupt:
        # Who interrupts does not want to wait for the layers that are being solved.
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)


GPU_CELLS = 1 << 24
"""Weights solved together on a GPU: enough columns to fill one, a few GB of what goes with them."""


def open_engine(device: str, threads: int = 0) -> Engine:
    """The engine for a device by name: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    ``"auto"`` is the CPU: the GPU is used only where it is asked for. ComqError where a GPU is asked for and
    cannot be used.
    """
    if not device.startswith("cuda"):
        return cpu_engine(threads)
    from comq_onnx.backends.cupy_ import open_device

    return Engine(open_device(int(device.partition(":")[2] or 0)), 1, GPU_CELLS)


def cpu_engine(threads: int = 0) -> Engine:
    """The compiled backend where numba is installed, otherwise NumPy; `threads` 0 for all cores."""
    return Engine(_cpu_backend(), threads or _cores())


def _cores() -> int:
    """Cores that this process may use, where the system says which."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def single_threaded_blas() -> AbstractContextManager[object]:
    """While it is open, a matrix product runs on the thread that calls it."""
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller() -> ThreadpoolController:
    """Found once: looking through the loaded libraries takes longer than a small layer."""
    _cpu_backend()  # what it loads brings a BLAS of its own, which must be among those that are found
    return ThreadpoolController()


def compiled() -> bool:
    """Whether the compiled CPU backend can be had; without it NumPy serves, which is slower."""
    return find_spec("numba") is not None and find_spec("scipy") is not None


@cache
def _cpu_backend() -> Backend:
    if not compiled():
        return numpy_  # pyright: ignore[reportReturnType]
    from comq_onnx.backends import numba_

    return numba_  # pyright: ignore[reportReturnType]
