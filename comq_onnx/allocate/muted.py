"""Standard output without what native libraries leave in it."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def muted() -> Iterator[None]:
    """What C and C++ print to standard output within the block goes nowhere.

    HiGHS of some SciPy versions prints a line of its developers' for solutions that it finds in a subproblem,
    whatever it is told of output. The file descriptor is the whole process's: keep the block short.
    """
    try:
        kept = os.dup(1)
    except OSError:  # no standard output at all
        yield
        return
    _flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(null)
        os.close(kept)


def _flush() -> None:
    """What lies in Python's and in C's buffers is written to where it was meant for."""
    if sys.stdout is not None:
        sys.stdout.flush()
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    library.fflush(None)
