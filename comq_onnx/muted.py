"""The terminal without what native libraries print on it, whatever they are told."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OUTPUT, ERRORS = 1, 2
"""File descriptors"""


@contextmanager
def muted(descriptor: int) -> Iterator[None]:
    """What C and C++ print to `descriptor` within the block goes nowhere.

    HiGHS of some SciPy versions prints a line of its developers' to standard output, and libtiff what it
    finds wrong in a file to standard error. A descriptor is the whole process's: keep the block short.
    """
    try:
        kept = os.dup(descriptor)
    except OSError:  # it is closed
        yield
        return
    _flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, descriptor)
        os.close(null)
        os.close(kept)


def _flush() -> None:
    """What lies in Python's and in C's buffers is written to where it was meant for."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    library.fflush(None)
