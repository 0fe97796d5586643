"""Sequences, maps and optionals as rows of values."""

import numpy as np
import pytest

from comq_onnx.run.plain import plain_array


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([np.ones((2, 1)), np.zeros(1)], [1, 1, 0]),
        ([], []),
        (None, []),
        ([{2: 0.5, 1: 0.25}, {1: 0.75, 2: 1.0}], [0.25, 0.5, 0.75, 1.0]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_answers_that_are_no_tensors_have_their_values_in_one_row(value, expected):
    found = plain_array(value)
    assert found.ndim == 1
    assert found.tolist() == expected


def test_a_tensor_is_itself():
    value = np.ones((2, 3))
    assert plain_array(value) is value
