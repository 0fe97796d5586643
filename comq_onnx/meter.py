"""Work done so far, told to a progress callback."""

from collections.abc import Callable

STEPS = 1000
"""Steps of a bar: fine enough to see it move, few enough to cost nothing."""


class Meter:
    """Work done, told as steps of `STEPS`, never twice the same and never back."""

    def __init__(self, told: Callable[[int, int], None], total: float) -> None:
        self._told, self._total, self._done, self._step = told, total, 0.0, 0
        told(0, STEPS)

    def add(self, work: float) -> None:
        """So much more is done. The last step is told by `finish` alone."""
        self._done += work
        step = min(int(STEPS * self._done / self._total), STEPS - 1) if self._total else 0
        if step > self._step:
            self._step = step
            self._told(step, STEPS)

    def finish(self) -> None:
        self._told(STEPS, STEPS)
