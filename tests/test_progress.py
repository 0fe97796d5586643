"""What is shown of a run: lines, and a time left that can be believed."""

import io
import re
from itertools import pairwise

import pytest
from rich.console import Console

from comq_onnx.meter import STEPS, Meter
from comq_onnx.progress import Lines, in_words

UNITS = {"s": 1, "min": 60, "h": 3600}


def seconds_of(words: str) -> int:
    return sum(int(count) * UNITS[unit] for count, unit in re.findall(r"(\d+) (s|min|h)\b", words))


def lines_of(pace: list[float], works: list[float]) -> list[tuple[int, int, float]]:
    """(per cent, seconds left as said, seconds left in truth) of each line of a stage.

    The clock is made up: the i-th piece takes `pace[i]` seconds for each unit of its work.
    """
    now, said = [100.0], io.StringIO()
    lines = Lines(Console(file=said, width=200), clock=lambda: now[0])
    end = now[0] + sum(p * w for p, w in zip(pace, works, strict=True))
    meter, told = None, []

    def tell(done: int, total: int) -> None:
        lines("solve", done, total)
        new = said.getvalue().splitlines()[len(told) :]
        for line in new:
            percent = int(re.match(r"solve (\d+) %", line)[1])  # pyright: ignore[reportOptionalSubscript]
            told.append((percent, seconds_of(line.partition("about")[2]), end - now[0]))

    meter = Meter(tell, sum(works))
    for p, w in zip(pace, works, strict=True):
        now[0] += p * w
        meter.add(w)
    meter.finish()
    return told


def test_at_an_even_pace_the_time_left_is_right_and_falls() -> None:
    told = lines_of([2.0] * 600, [1.0] * 600)
    assert [percent for percent, _, _ in told][-1] == 100
    assert all(a[0] < b[0] and a[1] >= b[1] for a, b in pairwise(told))
    # A line a minute, and one at each quarter.
    assert len(told) >= 20
    for _, said, truth in told:
        assert said == pytest.approx(truth, rel=0.06, abs=31)


def test_layers_that_are_a_fifth_slower_or_faster_than_thought_do_not_spoil_it() -> None:
    works = [float(1 + i % 7) for i in range(400)]
    told = lines_of([0.8 if i % 3 else 1.2 for i in range(400)], works)
    for _, said, truth in told:
        assert said == pytest.approx(truth, rel=0.15, abs=31)
    assert all(a[1] >= b[1] for a, b in pairwise(told))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1.2, "1 s"),
        (7.8, "8 s"),
        (13, "15 s"),
        (57, "1 min"),
        (130, "2 min"),
        (3599, "1 h"),
        (4300, "1 h 10 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_short_stage_says_its_quarters_without_a_time() -> None:
    now, said = [0.0], io.StringIO()
    lines = Lines(Console(file=said, width=200), clock=lambda: now[0])
    for done in range(9):
        lines("read", done, 8)
    assert said.getvalue().splitlines() == ["read 25 %", "read 50 %", "read 75 %", "read 100 %"]


def test_a_meter_never_goes_back_and_ends_once() -> None:
    told = []
    meter = Meter(lambda done, total: told.append((done, total)), 10.0)
    for work in (0.0, 1e-9, 3.0, 3.0, 3.999, 5.0):  # more than there was to do
        meter.add(work)
    meter.finish()
    steps = [done for done, _ in told]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, STEPS)
    assert steps.count(STEPS) == 1


def test_a_meter_of_nothing_to_do_ends_all_the_same() -> None:
    told = []
    meter = Meter(lambda done, total: told.append((done, total)), 0.0)
    meter.add(0.0)
    meter.finish()
    assert told == [(0, STEPS), (STEPS, STEPS)]
