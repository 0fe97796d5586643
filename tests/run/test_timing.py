"""Models take turns on one set of feeds."""

import numpy as np
import pytest
from graphs import model

from comq_onnx.errors import ComqError
from comq_onnx.run.timing import FEWEST_ROUNDS, MOST_ROUNDS, rounds_for, take_turns, time_models

NET = "g (float[N] x) => (float[N] y) { y = Exp(x) }"


@pytest.mark.parametrize("threads", [0, 1])
def test_a_time_for_each_model(threads: int) -> None:
    found = time_models([model(NET), model(NET)], {"x": np.ones(1000, np.float32)}, threads)
    assert len(found) == 2
    assert min(found) > 0


def test_a_model_that_does_not_run_says_so() -> None:
    with pytest.raises(ComqError, match="no value is fed to 'x'"):
        time_models([model(NET)], {})


def test_fast_models_have_more_rounds_within_limits() -> None:
    assert rounds_for(1e-9) == MOST_ROUNDS
    assert rounds_for(10.0) == FEWEST_ROUNDS
    assert FEWEST_ROUNDS < rounds_for(0.01) < MOST_ROUNDS


def test_calls_take_turns_and_the_first_of_each_is_not_counted():
    seen, now = [], [0.0]

    def call(name: str, seconds: float):
        def run() -> None:
            seen.append(name)
            now[0] += seconds

        return run

    spent = take_turns([call("a", 1.0), call("b", 3.0)], lambda: now[0])
    assert spent == [[1.0] * FEWEST_ROUNDS, [3.0] * FEWEST_ROUNDS]
    assert seen[:6] == ["a", "a", "b", "b", "a", "b"]
