"""Calibration data from every kind of source: the right samples, in the right batches."""

import gc

import ml_dtypes
import numpy as np
import pytest

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run import npy, sources
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.session import TensorSpec

X = np.arange(7 * 3 * 2, dtype=np.float32).reshape(7, 3, 2)
IMAGE = (TensorSpec("x", np.dtype(np.float32), (None, 3, 2)),)
PAIR = (*IMAGE, TensorSpec("ids", np.dtype(np.int64), (None, None)))


def opened(source, inputs=IMAGE, **recipe) -> Calibration:
    return open_calibration(source, inputs, Recipe(**recipe))


def stacked(calibration: Calibration, name: str = "x") -> np.ndarray:
    return np.concatenate([batch[name] for batch in calibration.batches()])


class Reader:
    """The protocol of onnxruntime's CalibrationDataReader: None when it is through, and no way back."""

    def __init__(self, items):
        self.items = iter(items)
        self.calls = 0

    def get_next(self):
        self.calls += 1
        return next(self.items, None)


def folder_of(tmp_path, kind: str):
    folder = tmp_path / "calib"
    folder.mkdir()
    for i, part in enumerate((X[:2], X[2:3], X[3:])):
        if kind == "npy":
            np.save(folder / f"{i}.npy", part)
        else:
            np.savez(folder / f"{i}.npz", x=part)
    (folder / "labels.txt").write_text("not data")
    return folder


def make_source(kind: str, tmp_path):
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x=X)
        return tmp_path / "a.npz"
    if kind == "unnamed npz":
        np.savez_compressed(tmp_path / "a.npz", X)
        return str(tmp_path / "a.npz")
    if kind == "npy":
        np.save(tmp_path / "a.npy", X)
        return tmp_path / "a.npy"
    if kind.startswith("folder"):
        return folder_of(tmp_path, kind.split()[1])
    return {
        "dict": {"x": X},
        "array": X,
        "list": [{"x": x[None]} for x in X],
        "list without batch axis": [{"x": x} for x in X],
        "list of arrays": list(X),
        "generator": ({"x": x[None]} for x in X),
        "generator of batches": ({"x": X[i : i + 3]} for i in (0, 3, 6)),
        "reader": Reader([{"x": x[None]} for x in X]),
        "whole feeds": {"x": X[:, None]},
    }[kind]


KINDS = [
    "npz", "unnamed npz", "npy", "folder npz", "folder npy", "dict", "array", "list",
    "list without batch axis", "list of arrays", "generator", "generator of batches", "reader", "whole feeds",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_samples_on_every_call(kind, tmp_path):
    calibration = opened(make_source(kind, tmp_path))
    assert (calibration.samples, calibration.batch_count, calibration.synthetic) == (7, 7, False)
    assert calibration.description.startswith("7 samples of ")
    for _ in range(2):
        assert np.array_equal(stacked(calibration), X)
    assert all(batch["x"].shape == (1, 3, 2) for batch in calibration.batches())


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_capped(kind, tmp_path):
    calibration = opened(make_source(kind, tmp_path), calibration_samples=4)
    assert calibration.samples == 4
    assert np.array_equal(stacked(calibration), X[:4])


def test_a_reader_is_read_no_further_than_needed():
    reader = Reader([{"x": x[None]} for x in X])
    calibration = opened(reader, calibration_samples=3)
    assert reader.calls == 3
    assert calibration.description == "3 samples of 3 items of a Reader"


def test_spilled_items_go_with_the_calibration(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.tempfile, "tempdir", str(tmp_path))
    calibration = opened({"x": x[None]} for x in X)
    assert len(list(tmp_path.glob("comq-*/*.npz"))) == 7
    assert np.array_equal(stacked(calibration), X)
    del calibration
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_large_files_are_mapped_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "EXTRACT_FROM", 1)
    monkeypatch.setattr(npy, "MAP_FROM", 1)
    np.savez_compressed(tmp_path / "a.npz", x=X)
    np.save(tmp_path / "a.npy", X)
    for name in ("a.npz", "a.npy"):
        source = sources.open_file(tmp_path / name, IMAGE)
        assert isinstance(next(source.records()).arrays["x"], np.memmap)
        assert np.array_equal(stacked(opened(tmp_path / name)), X)


def test_samples_are_grouped_where_the_batch_is_dynamic():
    calibration = opened({"x": X}, batch_size=3)
    assert [len(batch["x"]) for batch in calibration.batches()] == [3, 3, 1]
    assert calibration.batch_count == 3
    assert np.array_equal(stacked(calibration), X)


def test_a_fixed_batch_is_filled_and_the_rest_left_out():
    fixed = (TensorSpec("x", np.dtype(np.float32), (3, 3, 2)),)
    calibration = opened({"x": X}, fixed, batch_size=5)
    assert [len(batch["x"]) for batch in calibration.batches()] == [3, 3]
    assert calibration.samples == 6
    assert np.array_equal(stacked(opened([{"x": x} for x in X[:, None]], fixed)), X[:6])
    assert stacked(opened({"x": X}, fixed, calibration_samples=2)).shape == (3, 3, 2)
    with pytest.raises(ComqError, match="do not fill one batch: the model's batch is fixed at 3"):
        opened({"x": X[:2]}, fixed)


def test_a_batch_never_mixes_shapes(tmp_path):
    inputs = (TensorSpec("x", np.dtype(np.float32), (None, 3, None)),)
    for i, width in enumerate((4, 4, 5, 4)):
        np.save(tmp_path / f"{i}.npy", np.full((1, 3, width), i, np.float32))
    shapes = [batch["x"].shape for batch in opened(tmp_path, inputs, batch_size=4).batches()]
    assert shapes == [(2, 3, 4), (1, 3, 5), (1, 3, 4)]


def test_values_that_are_not_per_sample_serve_every_sample():
    inputs = (
        TensorSpec("x", np.dtype(np.float32), (None, 4)),
        TensorSpec("state", np.dtype(np.float32), (2, None, 3)),
        TensorSpec("rate", np.dtype(np.int64), ()),
    )
    x, state, rate = np.ones((5, 4), np.float32), np.zeros((2, 1, 3), np.float32), np.array(16000)
    calibration = opened({"x": x, "state": state, "rate": rate}, inputs)
    batches = list(calibration.batches())
    assert len(batches) == 5
    assert {name: value.shape for name, value in batches[0].items()} == {
        "x": (1, 4),
        "state": (2, 1, 3),
        "rate": (),
    }
    own = {"x": x, "state": np.stack([state] * 5), "rate": np.full(5, 8000)}
    batches = list(opened(own, inputs, batch_size=2).batches())
    assert len(batches) == 5
    assert batches[4]["state"].shape == (2, 1, 3)
    assert batches[4]["rate"].shape == ()


def test_a_fixed_one_beside_a_dynamic_batch_is_kept_when_samples_are_grouped():
    inputs = (*IMAGE, TensorSpec("size", np.dtype(np.float32), (1, 2)))
    data = {"x": X, "size": np.ones((1, 2), np.float32)}
    batches = list(opened(data, inputs, batch_size=4).batches())
    assert [(b["x"].shape[0], b["size"].shape) for b in batches] == [(4, (1, 2)), (3, (1, 2))]


@pytest.mark.parametrize(
    ("have", "want", "ok"),
    [
        ("float64", "float32", True),
        ("float16", "float32", True),
        ("float32", "float16", True),
        ("int32", "int64", True),
        ("int64", "int32", True),
        ("uint8", "int64", True),
        ("bool", "int64", True),
        ("bool", "float32", True),
        ("uint8", "float32", False),
        ("int64", "float32", False),
        ("float32", "int64", False),
        ("int64", "bool", False),
        ("complex64", "float32", False),
        ("str", "float32", False),
    ],
)
def test_casts(have, want, ok):
    spec = (TensorSpec("x", np.dtype(want), (None, 2)),)
    data = {"x": np.ones((3, 2)).astype(have)}
    if ok:
        batch = next(opened(data, spec).batches())
        assert batch["x"].dtype == want
        assert (batch["x"] == 1).all()
    else:
        with pytest.raises(ComqError, match=f"input 'x': expected {np.dtype(want)} .*found"):
            opened(data, spec)


def test_bfloat16_and_text():
    assert np.array_equal(stacked(opened(X.astype(ml_dtypes.bfloat16))), X)
    assert np.array_equal(stacked(opened(x[None].astype(ml_dtypes.bfloat16) for x in X)), X)
    words = np.array([["a"], ["bc"]])
    assert np.array_equal(stacked(opened(words, (TensorSpec("x", np.dtype(str), (None, 1)),))), words)


def test_an_undeclared_rank_is_taken_from_the_data():
    calibration = opened(X, (TensorSpec("x", np.dtype(np.float32), ()),))
    assert next(calibration.batches())["x"].shape == (1, 3, 2)
