"""Progress on a terminal as a bar with an ETA; elsewhere as a line per stage."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bars:
    """A bar per stage, made when its first report comes."""

    def __init__(self, bars: Progress) -> None:
        self.bars, self.tasks = bars, dict[str, TaskID]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=total)
        self.bars.update(self.tasks[stage], completed=done, total=total)


class Lines:
    """For logs: a line when a stage ends, and at each quarter of a long one."""

    def __init__(self, console: Console) -> None:
        self.console, self.quarters = console, dict[str, int]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if quarter > self.quarters.get(stage, 0):
            self.quarters[stage] = quarter
            self.console.print(f"{stage} {done}/{total}", highlight=False)


@contextmanager
def shown_on(console: Console) -> Iterator[Bars | Lines]:
    """A progress callback for `pipeline.quantize`, shown on `console`."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield Bars(bars)
