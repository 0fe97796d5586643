"""Made-up inputs: deterministic, structured, in range; and an error where no shape can be guessed."""

import numpy as np
import pytest

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import open_calibration
from comq_onnx.run.session import TensorSpec
from comq_onnx.run.synthetic import parse_shapes


def spec(name: str, dtype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


def first(*inputs: TensorSpec, vocabulary: dict[str, int] | None = None, **recipe) -> dict[str, np.ndarray]:
    calibration = open_calibration(None, inputs, Recipe(calibration_samples=4, **recipe), vocabulary)
    assert calibration.synthetic
    return next(calibration.batches())


TEXT = (
    spec("input_ids", "int64", None, None),
    spec("attention_mask", "int64", None, None),
    spec("token_type_ids", "int64", None, None),
)


def test_the_description_says_loudly_what_is_fed():
    calibration = open_calibration(None, [spec("x", "float32", None, 3, 8, 8)], Recipe(calibration_samples=4))
    assert calibration.description.startswith("NO DATA GIVEN")
    assert "'x' 1x3x8x8 1/f noise and dead leaves" in calibration.description
    assert (calibration.samples, calibration.batch_count) == (4, 4)


def test_every_call_and_every_batch_size_gives_the_same_samples():
    inputs = [spec("x", "float32", None, 3, 16, 16)]
    one = open_calibration(None, inputs, Recipe(calibration_samples=5))
    two = open_calibration(None, inputs, Recipe(calibration_samples=5, batch_size=2))
    stacked = [np.concatenate([b["x"] for b in c.batches()]) for c in (one, one, two)]
    assert np.array_equal(stacked[0], stacked[1])
    assert np.array_equal(stacked[0], stacked[2])
    assert [len(b["x"]) for b in two.batches()] == [2, 2, 1]
    assert two.batch_count == 3
    other = open_calibration(None, inputs, Recipe(calibration_samples=5, seed=1))
    assert not np.array_equal(next(other.batches())["x"], stacked[0][:1])
    assert not np.array_equal(stacked[0][0], stacked[0][1])


def test_images_look_like_images():
    images = open_calibration(
        None, [spec("x", "float32", None, 3, None, None)], Recipe(calibration_samples=12)
    )
    x = np.concatenate([batch["x"] for batch in images.batches()])
    assert x.shape == (12, 3, 224, 224)
    assert x.dtype == np.float32
    assert abs(x.mean()) < 0.4
    assert 0.6 < x.std() < 1.4
    centred = x - x.mean(axis=(2, 3), keepdims=True)
    neighbours = (centred[..., 1:] * centred[..., :-1]).mean() / (centred**2).mean()
    channels = (centred[:, 0] * centred[:, 1]).mean() / (centred**2).mean()
    assert neighbours > 0.8
    assert channels > 0.5
    # Amplitude falls about as 1/f: power in octaves of equal ratio drops steeply.
    power = (np.abs(np.fft.rfft(centred, axis=-1)) ** 2).mean(axis=(0, 1, 2))
    assert 2 < power[4:8].mean() / power[8:16].mean() < 16


def test_channels_last_and_integer_images():
    image = first(spec("x", "uint8", 1, 32, 32, 3))["x"]
    assert image.shape == (1, 32, 32, 3)
    assert image.dtype == np.uint8
    assert 60 < image.mean() < 200
    assert image.std() > 15


def test_text_is_consistent():
    feeds = first(*TEXT, vocabulary={"input_ids": 50})
    assert {name: value.shape for name, value in feeds.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (1, 128)
    )
    ids = feeds["input_ids"]
    assert ids.min() >= 0
    assert 40 < ids.max() < 50
    assert (feeds["attention_mask"] == 1).all()
    assert (feeds["token_type_ids"] == 0).all()
    assert ids.dtype == np.int64


def test_a_given_length_holds_for_the_whole_text():
    feeds = first(*TEXT, calibration_shapes="input_ids:2x16")
    assert {value.shape for value in feeds.values()} == {(2, 16)}


def test_sound_is_low_in_pitch_and_other_floats_are_white():
    sound = open_calibration(None, [spec("x", "float32", None, 1024)], Recipe(calibration_samples=30))
    power = np.mean([np.abs(np.fft.rfft(b["x"][0])) ** 2 for b in sound.batches()], axis=0)
    assert power[1:32].mean() > 5 * power[256:].mean()
    white = first(spec("x", "float32", 64, 100))["x"]
    assert abs(np.corrcoef(white[:, 0], white[:, 1])[0, 1]) < 0.4
    assert abs(white.std() - 1) < 0.05


def test_other_kinds():
    feeds = first(
        spec("flag", "bool"),
        spec("rate", "int64"),
        spec("position_ids", "int64", 1, 5),
        spec("mask", "float32", 1, 5),
    )
    assert feeds["flag"].dtype == bool
    assert feeds["flag"]
    assert feeds["rate"] == 1
    assert feeds["rate"].shape == ()
    assert feeds["position_ids"].tolist() == [[0, 1, 2, 3, 4]]
    assert feeds["mask"].tolist() == [[1, 1, 1, 1, 1]]


def test_a_fixed_batch_is_filled():
    calibration = open_calibration(None, [spec("x", "float32", 4, 8)], Recipe(calibration_samples=10))
    assert (calibration.samples, calibration.batch_count) == (8, 2)
    assert [batch["x"].shape for batch in calibration.batches()] == [(4, 8), (4, 8)]


def test_an_unknown_dimension_names_input_and_flag():
    with pytest.raises(ComqError, match=r"input 'feats'.*--calibration-shapes feats:1xNx80"):
        first(spec("feats", "float32", None, None, 80))
    assert first(spec("feats", "float32", None, None, 80), calibration_shapes="feats:1x7x80")[
        "feats"
    ].shape == (1, 7, 80)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "'x' is no shape"),
        ("x:1xNx3", "is no shape"),
        ("other:1x3", "'other' is no input of the model.*'x'"),
        ("x:1x3", r"\[1, 3\] does not fit input 'x', which is \[\?, 4\]"),
        ("x:1x2x4", "does not fit input 'x'"),
    ],
)
def test_bad_shapes_are_said(text, message):
    with pytest.raises(ComqError, match=message):
        first(spec("x", "float32", None, 4), calibration_shapes=text)


def test_names_with_colons():
    assert parse_shapes("a:0:1x2, b:3") == {"a:0": (1, 2), "b": (3,)}


def test_text_inputs_have_no_synthetic_value():
    with pytest.raises(ComqError, match="no synthetic value"):
        first(spec("words", "str", 1))
