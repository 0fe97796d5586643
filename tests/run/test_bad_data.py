"""Calibration data that cannot be used: one sentence each, naming file, input, expected and found."""

import zipfile

import numpy as np
import pytest

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.session import TensorSpec

X = np.arange(7 * 3 * 2, dtype=np.float32).reshape(7, 3, 2)
IMAGE = (TensorSpec("x", np.dtype(np.float32), (None, 3, 2)),)
PAIR = (*IMAGE, TensorSpec("ids", np.dtype(np.int64), (None, None)))


def opened(source, inputs=IMAGE, **recipe) -> Calibration:
    return open_calibration(source, inputs, Recipe(**recipe))


def bad(name: str, tmp_path):
    """A source that cannot be used, its inputs, and what is said about it."""

    def npz(**arrays):
        path = tmp_path / f"{'-'.join(arrays)}{arrays['x'].size}c.npz"
        np.savez(path, **arrays)
        return path

    def raw(file: str, data: bytes):
        (tmp_path / file).write_bytes(data)
        return tmp_path / file

    nan, inf = X.copy(), X.copy()
    nan[3, 0, 0], inf[0, 1, 1] = np.nan, np.inf
    pickled = tmp_path / "p.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    pickled_npz = tmp_path / "p.npz"
    np.savez(pickled_npz, x=np.array([{"a": 1}], dtype=object))
    ids = np.ones((7, 4), np.int64)
    truncated = npz(x=X).read_bytes()[:200]
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("x.npy", b"junk")
    return {
        "missing file": (tmp_path / "no.npz", IMAGE, r"no\.npz: the calibration data do not exist"),
        "other suffix": (raw("a.csv", b"1,2"), IMAGE, r"a\.csv: '\.csv' files are no calibration data"),
        "empty folder": ((tmp_path / "e").mkdir() or tmp_path / "e", IMAGE, "the folder holds no"),
        "truncated npz": (raw("t.npz", truncated), IMAGE, r"t\.npz: it cannot be read as NumPy data"),
        "junk npy": (raw("j.npy", b"junk"), IMAGE, r"j\.npy: it (cannot be read|holds pickled)"),
        "junk in npz": (tmp_path / "z.npz", IMAGE, r"z\.npz: it cannot be read as NumPy data"),
        "pickled npy": (pickled, IMAGE, r"p\.npy: it holds pickled Python objects"),
        "pickled npz": (pickled_npz, IMAGE, r"p\.npz: it holds pickled Python objects"),
        "object array": (
            {"x": np.array([None])},
            IMAGE,
            "input 'x': an array of object holds no plain numbers",
        ),
        "ragged list": ({"x": [[1.0], [1.0, 2.0]]}, IMAGE, "input 'x': a list is no array"),
        "unknown name": (npz(x=X, labels=X), IMAGE, r"c\.npz: 'labels' is no input of the model.*'x'"),
        "missing name": (npz(x=X), PAIR, r"c\.npz: input 'ids' is missing.*'x', 'ids'"),
        "unnamed array": (X, PAIR, "one unnamed array cannot feed the model's 2 inputs"),
        "rank": (X[0, 0], IMAGE, r"input 'x': expected float32 \[\?, 3, 2\], found float32 \[2\]"),
        "fixed dim": (
            npz(x=X[:, :2]),
            IMAGE,
            r"c\.npz, input 'x': expected float32 \[\?, 3, 2\].*\[7, 2, 2\]",
        ),
        "raw image": (X.astype(np.uint8), IMAGE, r"expected float32 .*found uint8 .*preprocess it"),
        "ids as floats": (
            {"x": X, "ids": ids.astype(float)},
            PAIR,
            "input 'ids': expected int64 .*save it as int64",
        ),
        "counts differ": ({"x": X, "ids": ids[:5]}, PAIR, "input 'x' has 7 samples and input 'ids' has 5"),
        "no samples": (X[:0], IMAGE, "input 'x' has no samples"),
        "empty list": ([], IMAGE, "it holds no samples"),
        "empty generator": ((x for x in ()), IMAGE, "it holds no samples"),
        "NaN": (nan, IMAGE, "input 'x', sample 3: the data hold NaN or infinity"),
        "Inf": (inf, IMAGE, "input 'x', sample 0: the data hold NaN or infinity"),
        "no source": (3, IMAGE, "a int is no source of calibration data"),
    }[name]


BAD = [
    "missing file", "other suffix", "empty folder", "truncated npz", "junk npy", "junk in npz", "pickled npy",
    "pickled npz", "object array", "ragged list", "unknown name", "missing name", "unnamed array", "rank",
    "fixed dim", "raw image", "ids as floats", "counts differ", "no samples", "empty list", "empty generator",
    "NaN", "Inf", "no source",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_said_in_one_sentence(name, tmp_path):
    source, inputs, message = bad(name, tmp_path)
    with pytest.raises(ComqError, match=message) as caught:
        opened(source, inputs)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")


def test_values_out_of_range_of_the_type():
    ids = (TensorSpec("ids", np.dtype(np.int32), (None, 2)),)
    with pytest.raises(
        ComqError, match="input 'ids', sample 1: values from 7 to 8589934592 do not fit in int32"
    ):
        opened({"ids": np.array([[1, 2], [7, 2**33]])}, ids)
    half = (TensorSpec("x", np.dtype(np.float16), (None, 2)),)
    with pytest.raises(ComqError, match="too large for float16"):
        opened({"x": np.full((1, 2), 1e6)}, half)


def test_a_transposed_image_gets_a_hint():
    nchw = (TensorSpec("x", np.dtype(np.float32), (None, 3, 8, 9)),)
    with pytest.raises(ComqError, match="channels before height and width"):
        opened(np.zeros((2, 8, 9, 3), np.float32), nchw)
    nhwc = (TensorSpec("x", np.dtype(np.float32), (None, 8, 9, 3)),)
    with pytest.raises(ComqError, match="channels after height and width"):
        opened(np.zeros((2, 3, 8, 9), np.float32), nhwc)


def test_an_input_that_is_no_tensor():
    with pytest.raises(ComqError, match="input 's': it is no tensor"):
        opened({"s": X}, (TensorSpec("s", np.dtype(object), ()),))


def test_a_sample_that_cannot_fill_a_fixed_batch():
    inputs = (TensorSpec("x", np.dtype(np.float32), (3, 4)), TensorSpec("s", np.dtype(np.float32), (2, 4)))
    data = {"x": np.zeros((6, 4), np.float32), "s": np.zeros((6, 2, 4), np.float32)}
    with pytest.raises(ComqError, match="a sample of 1 cannot fill the model's fixed batch of 3"):
        opened(data, inputs)
