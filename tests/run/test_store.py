"""Activations in memory and on disk: the same bits back, and nothing left behind."""

import gc
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from comq_onnx.errors import ComqError
from comq_onnx.run.store import Store

ARRAYS = {
    "float32": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32),
    "special values": np.array([np.nan, -0.0, np.inf, np.finfo(np.float32).tiny / 2], np.float32),
    "float16": np.arange(6, dtype=np.float16),
    "bfloat16": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
    "float8": np.arange(6).astype(ml_dtypes.float8_e4m3fn),
    "int64": np.array([[-1, 1 << 60]]),
    "bool": np.array([True, False]),
    "text": np.array(["", "four"]),
    "objects": np.array(["a", "bc"], dtype=object),
    "0-d": np.array(2.5),
    "empty": np.zeros((2, 0, 3), np.float32),
    "not contiguous": np.arange(24.0).reshape(4, 6).T[::2],
    "column-major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_come_back_bit_by_bit(scratch: Path, kind: str, limit: int) -> None:
    store, value = Store(limit), ARRAYS[kind]
    store.put(("both", kind, 0), value)
    assert len(files(scratch)) == int(limit == 0 and kind != "objects" and value.nbytes > 0)
    got = store.get(("both", kind, 0))
    assert (got.dtype, got.shape) == (value.dtype, value.shape)
    assert got.tobytes() == value.tobytes() if value.dtype != object else list(got) == list(value)


def test_what_fits_stays_in_memory_and_the_rest_goes_to_disk(scratch: Path) -> None:
    store = Store(100)
    for i in range(4):
        store.put(("both", "t", i), np.full(10, i, np.float32))
    assert (store.held, store.spilled, store.peak) == (80, 80, 160)
    assert len(files(scratch)) == 2
    assert [store.get(("both", "t", i))[0] for i in range(4)] == [0, 1, 2, 3]
    store.drop(("both", "t", 0))
    store.put(("both", "u", 0), np.zeros(10, np.float32))
    assert (store.held, store.spilled, store.peak) == (80, 80, 160)


def test_what_is_dropped_leaves_memory_and_disk(scratch: Path) -> None:
    store = Store(50)
    keys = [("float", "t", i) for i in range(3)]
    for key in keys:
        store.put(key, np.zeros(10, np.float32))
    for key in keys:
        store.drop(key)
    assert (store.held, files(scratch)) == (0, [])
    store.put(keys[0], np.zeros(10, np.float32))
    store.put(keys[1], np.zeros(10, np.float32))
    assert store.peak == 120, "the sizes of dropped files are taken off again"
    with pytest.raises(KeyError):
        store.get(keys[2])
    with pytest.raises(KeyError):
        store.drop(keys[2])


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_a_second_array_replaces_the_first(scratch: Path, limit: int) -> None:
    store = Store(limit)
    for i in range(3):
        store.put(("both", "t", 0), np.full(4, i))
    assert store.get(("both", "t", 0)).tolist() == [2] * 4
    assert len(files(scratch)) == (limit == 0)
    store.drop(("both", "t", 0))
    assert (store.held, files(scratch)) == (0, [])


def test_an_array_of_another_limit_replaces_one_on_disk(scratch: Path) -> None:
    """A large array goes to disk, a small one under the same key to memory: the small one is found."""
    store = Store(8)
    store.put(("both", "t", 0), np.zeros(100))
    store.put(("both", "t", 0), np.ones(1))
    assert store.get(("both", "t", 0)).tolist() == [1]
    assert files(scratch) == []


def test_the_folder_goes_with_the_store(scratch: Path) -> None:
    store = Store(0)
    store.put(("both", "t", 0), np.zeros(4))
    assert len(list(scratch.iterdir())) == 1
    del store
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_no_folder_is_made_where_all_fits(scratch: Path) -> None:
    Store(1000).put(("both", "t", 0), np.zeros(4))
    assert list(scratch.iterdir()) == []


def test_a_full_disk_is_said(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ComqError, match=r"exceed the memory limit .* \(No space left on device\)"):
        Store(0).put(("both", "t", 0), np.zeros(4))


def test_a_missing_folder_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ComqError, match="cannot be written to disk"):
        Store(0).put(("both", "t", 0), np.zeros(4))
