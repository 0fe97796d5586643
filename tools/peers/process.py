"""Run a command under a time limit and a memory limit, measuring the time and the memory of its processes.

Linux only: the processes are found under ``/proc``.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05
TRACEBACK = "Traceback (most recent call last):"
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Limits:
    """The longest time and the most memory, of all processes of a command together."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Run:
    """What a command used. `problem` says why it failed, in one line; it is empty where it did not."""

    problem: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Most resident memory of its processes together; a page that two share counts twice"""


def run(command: list[str], folder: Path, limits: Limits, environment: dict[str, str] | None = None) -> Run:
    """Run `command` in `folder`; its output goes into ``stdout.txt`` and ``stderr.txt`` there."""
    with (folder / "stdout.txt").open("wb") as out, (folder / "stderr.txt").open("wb") as err:
        started = time.monotonic()
        child = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=err, env=environment, start_new_session=True
        )
        peak, stopped, status, used = _watch(child.pid, limits, started)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    told = (folder / "stderr.txt").read_text(errors="replace")
    problem = stopped or (reason(told, child.returncode) if child.returncode else "")
    return Run(problem, round(seconds, 2), round(used.ru_utime + used.ru_stime, 2), peak)


def _watch(pid: int, limits: Limits, started: float):
    """Wait for the end, or bring it about at a limit: peak bytes, which limit it was, status, usage."""
    peak, stopped = 0, ""
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            return peak, stopped, status, used
        peak = max(peak, tree_bytes(pid))
        if not stopped and peak > limits.peak_bytes:
            stopped = f"stopped: over {limits.peak_bytes / 1e9:g} GB of memory"
        if not stopped and time.monotonic() - started > limits.seconds:
            stopped = f"stopped: over {limits.seconds:g} s"
        if stopped:
            os.killpg(pid, signal.SIGKILL)  # a session of its own: its group is what it started
        time.sleep(POLL_SECONDS)


def tree_bytes(root: int) -> int:
    """Resident bytes of a process and its descendants."""
    parents: dict[int, int] = {}
    resident: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name of a process, in brackets, may hold spaces.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(entry.name)], resident[int(entry.name)] = int(fields[1]), int(fields[21]) * PAGE
    return sum(size for pid, size in resident.items() if _descends(pid, root, parents))


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid and pid != root:
        pid = parents.get(pid, 0)
    return pid == root


def reason(stderr: str, code: int) -> str:
    """One line that says why a program failed: the exception's own, or how the process ended."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    if code < 0:
        return f"the process ended by signal {-code}"
    if TRACEBACK in lines:
        last = len(lines) - lines[::-1].index(TRACEBACK)
        told = next((line for line in lines[last:] if not line.startswith(" ")), "")  # frames are indented
        name, colon, text = told.partition(":")
        return shortened(f"{name.rpartition('.')[2]}{colon}{text}".rstrip(": "))
    return shortened(lines[-1].strip() if lines else f"exit code {code}")


def shortened(text: str, longest: int = 160) -> str:
    """The text, cut at a word where it is long."""
    return text if len(text) <= longest else text[:longest].rsplit(" ", 1)[0] + " …"
