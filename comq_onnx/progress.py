"""Progress on a terminal as a bar with an ETA; elsewhere as lines that say the time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class Bars:
    """A bar per stage, made when its first report comes."""

    def __init__(self, bars: Progress) -> None:
        self.bars, self.tasks = bars, dict[str, TaskID]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=total)
        self.bars.update(self.tasks[stage], completed=done, total=total)


class Lines:
    """For logs: a line at each quarter of a stage, and once a minute while it moves.

    Its `clock` is in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.stages = dict[str, Said]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now, part = self.clock(), done / max(total, 1)
        said = self.stages.setdefault(stage, Said(now, now, 0))
        quarter = int(4 * part)
        if quarter == said.quarter and now - said.last < MINUTE:
            return
        self.stages[stage] = Said(said.started, now, quarter)
        self.console.print(f"{stage} {int(100 * part)} %{left(now - said.started, part)}", highlight=False)


@dataclass(frozen=True)
class Said:
    """When a stage started and had its last line, by the clock, and which quarter that line was for."""

    started: float
    last: float
    quarter: int


def left(elapsed: float, part: float) -> str:
    """The time left where `part` of the work took `elapsed` seconds, as a clause; empty below a second."""
    rest = elapsed * (1 - part) / part if part else 0.0
    return f", about {in_words(rest)} left" if rest >= 1 else ""


def in_words(seconds: float) -> str:
    """A duration to the precision that an estimate deserves: ``40 s``, ``2 min``, ``1 h 10 min``."""
    if seconds < MINUTE - 5:
        return f"{_rounded(seconds, 1 if seconds < 10 else 5)} s"
    minutes = _rounded(seconds / MINUTE, 1 if seconds < HOUR else 10)
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{rest} min" if rest else "")))


def _rounded(value: float, step: int) -> int:
    return max(step, step * round(value / step))


@contextmanager
def shown_on(console: Console) -> Iterator[Bars | Lines]:
    """A progress callback for `pipeline.quantize`, shown on `console`."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Segments, sums and layers take turns: only the whole stage's speed says what is left.
    with Progress(*columns, console=console, speed_estimate_period=DAY) as bars:
        yield Bars(bars)
