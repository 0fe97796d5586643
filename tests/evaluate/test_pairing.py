"""Which inputs and outputs belong together, and what is said where none do."""

import pytest
from graphs import model

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.pairing import pair, renamed, side


def of(left: str, right: str):
    return pair(side("A", model(left)), side("B", model(right)))


ONE = "g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"


def test_names_that_are_equal():
    found = of(ONE, ONE)
    assert (found.inputs, found.outputs, found.notes) == ({"x": "x"}, {"y": "y"}, ())


def test_the_only_ones_left_are_paired_and_that_is_said():
    found = of(ONE, "g (float[N, 4] image) => (float[N, 4] z) { z = Relu(image) }")
    assert (found.inputs, found.outputs) == ({"x": "image"}, {"y": "z"})
    assert found.notes == (
        "A's input 'x' is taken for B's 'image', the only one left of each",
        "A's output 'y' is taken for B's 'z', the only one left of each",
    )
    assert renamed({"x": 1, "mask": 2}, found.inputs) == {"image": 1, "mask": 2}  # pyright: ignore


def test_an_axis_that_is_fixed_in_one_model_is_fixed():
    found = of(ONE, "g (float16[2, M] x) => (float16[2, M] y) { y = Relu(x) }")
    assert [spec.shape for spec in found.specs] == [(2, 4)]


def test_an_input_of_one_model_alone_must_be_fed_too():
    found = of(ONE, "g (float[N, 4] x, float[4] more) => (float[N, 4] y) { y = Add(x, more) }")
    assert [spec.name for spec in found.specs] == ["x", "more"]


def test_outputs_of_one_model_alone_are_told():
    found = of(
        "g (float[N, 4] x) => (float[N, 4] y, float[N, 4] u, float[N, 4] v) "
        "{ y = Relu(x) u = Abs(x) v = Neg(x) }",
        ONE,
    )
    assert found.outputs == {"y": "y"}
    assert found.notes == ("only A has the outputs 'u', 'v': they are not compared",)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            "g (float[N, 4] p, float[N, 4] q) => (float[N, 4] y) { y = Add(p, q) }",
            "its inputs 'p', 'q' are none of",
        ),
        ("g (float[N, 5] x) => (float[N, 5] y) { y = Relu(x) }", r"has the shape \[\?, 5\], and that of A"),
        ("g (float[4] x) => (float[4] y) { y = Relu(x) }", r"has the shape \[4\]"),
        (
            "g (int32[N, 4] x) => (int32[N, 4] y) { y = Abs(x) }",
            "its input 'x' is int32, and that of A is float32",
        ),
        (
            "g (float[N, 4] x) => (float[N, 4] u, float[N, 4] v) { u = Abs(x) v = Neg(x) }",
            "none of its outputs",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(other, said):
    with pytest.raises(ComqError, match=said):
        of(ONE, other)
