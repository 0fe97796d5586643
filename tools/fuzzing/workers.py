"""Processes that run attempts one after the other, watched from outside: they may hang, die or eat memory."""

import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fuzzing.judge import Verdict, attempt_of, judge

MEMORY = 3 << 30
"""Bytes of private memory that a worker may have; one that is idle has about 0.4 GB"""
WARM_UP = 120
"""Seconds for a worker to start in"""
Job = tuple[str, int, int]
"""Kind, seed and number of an input"""


def serve(pipe: Connection) -> None:
    """What a worker does: inputs by kind, seed and number in, verdicts out."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run_job(("recipes", 0, 0))  # imports, and compiles
    pipe.send(None)
    while (job := pipe.recv()) is not None:
        pipe.send(run_job(job))


def run_job(job: Job) -> Verdict:
    """Make one input in a folder of its own, run it and judge."""
    room = Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder = room / "in"
    folder.mkdir()
    try:
        return judge(attempt_of(*job, folder), folder)
    finally:
        shutil.rmtree(room, ignore_errors=True)


@dataclass
class Worker:
    """A process and what it is at."""

    pipe: Connection
    process: Any
    job: Job | None = None
    since: float = field(default_factory=time.monotonic)
    ready: bool = False

    used: float = 0.0
    """Seconds of its processor when it was given the job"""

    def give(self, job: Job | None) -> None:
        self.job, self.since, self.used = job, time.monotonic(), self.processor_seconds()
        self.pipe.send(job)

    def late(self, limit: float) -> bool:
        """Longer than `limit` at work, or far longer on the clock: the machine may be busy with others."""
        waited = time.monotonic() - self.since
        if not self.ready:
            return waited > WARM_UP
        return waited > WARM_UP or (waited > limit and self.processor_seconds() - self.used > limit)

    def processor_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start() -> Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return Worker(ours, process)


def run_all(jobs: Iterator[Job], count: int, limit: float) -> Iterator[tuple[Job, Verdict]]:
    """Verdicts as they come; a worker that hangs longer than `limit` seconds or dies is replaced."""
    workers = [start() for _ in range(count)]
    try:
        while workers:
            wait([worker.pipe for worker in workers], timeout=0.5)
            for worker in list(workers):
                verdict, ended = _look(worker, limit)
                if verdict is not None and worker.job is not None:
                    yield worker.job, verdict
                if ended:
                    workers.remove(worker)
                    if worker.job is None:
                        raise SystemExit("a worker does not start")
                    workers.append(start())
                elif verdict is not None or (worker.ready and worker.job is None):
                    worker.give(next(jobs, None))
                    if worker.job is None:
                        workers.remove(worker)
    finally:
        for worker in workers:
            worker.process.kill()


def _look(worker: Worker, limit: float) -> tuple[Verdict | None, bool]:
    """The verdict on a worker's job, if it has one, and whether the worker is at its end."""
    if worker.pipe.poll():
        try:
            said = worker.pipe.recv()
        except EOFError:
            worker.process.join()
            return Verdict(
                "died", "", f"exit code {worker.process.exitcode}", str(worker.process.exitcode)
            ), True
        if said is None:
            worker.ready = True
            return None, False
        return said, False
    if worker.late(limit):
        worker.process.kill()
        worker.process.join()
        return Verdict("hung", "", f"no end within {limit:g} s"), True
    return None, False
