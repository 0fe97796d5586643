"""Latencies as text, and the sum that a latency model is."""

import pytest

from comq_onnx.errors import ComqError
from comq_onnx.latency import Latency, LatencyModel, parse_latency


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5ms", 0.005), ("0.8s", 0.8), ("800us", 0.0008), ("12s", 12.0), ("1.25ms", 0.00125)],
)
def test_a_duration_is_seconds_whatever_the_float_model_takes(text: str, seconds: float) -> None:
    parsed = parse_latency(text)
    assert not parsed.relative
    assert parsed.seconds(7.0) == pytest.approx(seconds)


def test_a_multiple_is_of_the_float_models_latency() -> None:
    assert parse_latency("0.8x") == Latency(0.8, relative=True)
    assert parse_latency("0.8x").seconds(0.5) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "text",
    ["", "5", "ms", "5 ms", "-5ms", "0ms", "0.0x", "5min", "5MS", "1e3us", "nanx", "5ms6", ".5s", "٣ms"],
)
def test_anything_else_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ComqError, match=r"^--target-latency: .* is no latency; write 5ms.*\.$"):
        parse_latency(text)


MODEL = LatencyModel(
    whole=10.0,
    rest=4.0,
    layers={
        "a": {"float": 5.0, "int8 channel": 3.0, "int4 b128": 2.0},
        "b": {"float": 1.0, "int8 channel": 0.5, "int4 b128": 0.75},
    },
)


@pytest.mark.parametrize(
    ("choice", "seconds"),
    [
        ({}, 10.0),
        ({"a": "float", "b": "float"}, 10.0),
        ({"a": "int4 b128"}, 7.0),
        ({"a": "int8 channel", "b": "int4 b128"}, 7.75),
    ],
)
def test_the_rest_and_each_layer_as_it_is_stored_add_up(choice: dict[str, str], seconds: float) -> None:
    assert MODEL.seconds(choice) == seconds


@pytest.mark.parametrize("choice", [{"c": "float"}, {"a": "int2 b32"}])
def test_what_was_not_measured_is_an_error(choice: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        MODEL.seconds(choice)
