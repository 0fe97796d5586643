"""Sources told apart: functions, folders of several kinds, files that need something more."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.session import TensorSpec

X = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
INPUTS = (TensorSpec("x", np.dtype(np.float32), (None, 3, 2)),)
PICTURE = (TensorSpec("x", np.dtype(np.float32), (1, 3, 4, 4)),)


def opened(source, inputs=INPUTS, **recipe) -> Calibration:
    return open_calibration(source, inputs, Recipe(**recipe))


def stacked(calibration: Calibration) -> np.ndarray:
    return np.concatenate([batch["x"] for batch in calibration.batches()])


class Reader:
    """A calibration reader, made without arguments."""

    def __init__(self):
        self.items = iter(X)

    def get_next(self):
        return next(({"x": x[None]} for x in self.items), None)


class Maker:
    def __call__(self, inputs):
        return {spec.name: X for spec in inputs}


def generator():
    yield from ({"x": x[None]} for x in X)


@pytest.mark.parametrize(
    "source",
    [
        lambda: {"x": X},
        lambda inputs: {inputs[0].name: X},
        lambda inputs=None: {"x": X} if inputs is None else None,
        generator,
        Reader,
        Maker(),
        lambda: lambda: X,
    ],
)
def test_a_function_is_called_for_its_samples(source):
    assert np.array_equal(stacked(opened(source)), X)


def test_a_function_may_name_a_file(tmp_path):
    np.save(tmp_path / "a.npy", X)
    assert np.array_equal(stacked(opened(lambda: tmp_path / "a.npy")), X)
    with pytest.raises(ComqError, match="a NoneType is no source"):
        opened(lambda: None)


def test_a_bug_in_a_function_is_the_users_own():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        opened(broken)


def test_of_a_mixed_folder_one_kind_is_read_and_the_rest_told(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").touch()
    (tmp_path / "README").touch()
    (tmp_path / ".DS_Store").touch()
    wavfile.write(tmp_path / "b.wav", 8000, np.zeros(10, np.float32))
    (note,) = opened(tmp_path, PICTURE, preprocess="unit").notes
    assert note.endswith("other files are left out: 1 .csv, 1 .wav, 1 no suffix.")
    np.save(tmp_path / "c.npy", np.ones((1, 3, 4, 4), np.float32))
    calibration = opened(tmp_path, PICTURE)
    assert stacked(calibration).min() == 1
    assert "1 .png" in calibration.notes[0]


def test_a_text_wants_its_tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("hello\n")
    with pytest.raises(ComqError, match=r"a\.txt: a text is fed as tokens; .*--tokenizer"):
        opened(tmp_path / "a.txt")


def test_arrays_are_not_prepared_and_that_is_told(tmp_path):
    np.save(tmp_path / "a.npy", X)
    for source in (tmp_path / "a.npy", tmp_path, {"x": X}, list(X), lambda: X):
        (note,) = opened(source, preprocess="imagenet").notes
        assert "fed as they are" in note
