"""Models take turns on one set of feeds."""

import numpy as np
import pytest
from graphs import model

from comq_onnx.errors import ComqError
from comq_onnx.run.timing import FEWEST_ROUNDS, MOST_ROUNDS, rounds_for, time_models

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
