"""Being told to stop: Ctrl-C and SIGTERM end a run at once and leave nothing behind."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    with _handled(signal.default_int_handler, (signal.SIGTERM,)):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM have their effect after the block: what is in it is done whole or not at all."""
    caught: list[int] = []
    try:
        with _handled(lambda number, _: caught.append(number), SIGNALS):
            yield
    finally:
        if caught:
            signal.raise_signal(caught[0])


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder that is gone afterwards, at whatever moment the run is interrupted."""
    with held_back():
        folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
    try:
        yield Path(folder.name)
    finally:
        with held_back():
            folder.cleanup()


def put_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: what was there stays until then. OSError where it cannot be."""
    with temporary_folder(".comq-", path.parent) as scratch:
        draft = scratch / path.name
        draft.write_bytes(data)
        with held_back():
            os.replace(draft, path)


@contextmanager
def temporary_files_together() -> Iterator[None]:
    """All temporary files of this process lie in one folder, which is gone afterwards with all in it.

    For programs, not for libraries: it sets `tempfile.tempdir`.
    """
    with temporary_folder("comq-") as folder:
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


def leave(code: int) -> NoReturn:
    """End the process now, without waiting for the layers that threads are solving."""
    main = threading.main_thread()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not main):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def _handled(handler: Any, signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Signals are handled so within the block. Those that the process ignores stay ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        known = {number: signal.getsignal(number) for number in signals}
        before = {number: old for number, old in known.items() if old not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
