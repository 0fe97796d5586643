"""NumPy files as they are, and as nobody should send them."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from comq_onnx.errors import ComqError
from comq_onnx.run import npy
from comq_onnx.run.npy import extract_npz, is_large, read_npy, read_npz

DTYPES = arrays.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufUS")
ARRAYS = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


def file_of(header: str, body: bytes = b"", version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    return (
        b"\x93NUMPY"
        + bytes((version, 0))
        + struct.pack("<H" if version == 1 else "<I", len(text))
        + text
        + body
    )


def header(shape: str, kind: str = "'<f4'") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"


@given(array=ARRAYS, fortran=st.booleans(), packed=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_numpy_reads_the_same(tmp_path_factory, array: np.ndarray, fortran: bool, packed: bool) -> None:
    folder = tmp_path_factory.mktemp("npy")
    array = np.asfortranarray(array) if fortran else array
    np.save(folder / "a.npy", array)
    (np.savez_compressed if packed else np.savez)(folder / "a.npz", x=array, y=array[None])
    for found in (read_npy(folder / "a.npy"), read_npz(folder / "a.npz")["x"]):
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
    assert read_npz(folder / "a.npz")["y"].shape == (1, *array.shape)


@pytest.mark.parametrize("fortran", [False, True])
def test_large_files_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fortran: bool) -> None:
    monkeypatch.setattr(npy, "MAP_FROM", 1)
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", np.asfortranarray(array) if fortran else array)
    found = read_npy(tmp_path / "a.npy")
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, array)


BAD = {
    "more than is there": (file_of(header("(99999999999, 16)")), "cannot be read as NumPy data"),
    "more than there can be": (file_of(header("(4611686018427387904, 16)")), "cannot be read"),
    "a negative size": (file_of(header("(-1, 16)"), bytes(64)), "cannot be read"),
    "a size that is none": (file_of(header("(6, 16.0)"), bytes(384)), "cannot be read"),
    "an expression": (file_of(header("(open('ran', 'w'), 1)")), "cannot be read"),
    "half an expression": (file_of(header("(6, 16")), "cannot be read"),
    "brackets": (file_of("(" * 9000), "cannot be read"),
    "objects": (
        file_of(header("(1,)", "'|O'"), bytes(8)),
        "it holds pickled Python objects, which are never",
    ),
    "named fields": (file_of(header("(1,)", "[('a', '|O')]"), bytes(8)), "pickled Python objects"),
    "a type that is none": (file_of(header("(1,)", "'nonsense'"), bytes(8)), "cannot be read"),
    "a wide text": (file_of(header("(6,)", "'<U99999999'"), bytes(8)), "cannot be read"),
    "another version": (file_of(header("(1,)"), bytes(4), version=9), "cannot be read"),
    "nothing": (b"", "cannot be read"),
    "another file": (b"\x80\x04]\x94.", "cannot be read"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_array_is_refused(name: str, packed: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, said = BAD[name]
    path = tmp_path / ("a.npz" if packed else "a.npy")
    path.write_bytes(data)
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", data)
    with pytest.raises(ComqError, match=said):
        read_npz(path) if packed else read_npy(path)
    assert not (tmp_path / "ran").exists()


def archived(path: Path, array: np.ndarray, method: int = zipfile.ZIP_STORED, name: str = "x.npy") -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, buffer.getvalue())
    return path.read_bytes()


def test_packed_bytes_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    data = bytearray(archived(path, np.arange(1000), zipfile.ZIP_DEFLATED))
    data[60:80] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(ComqError, match="cannot be read as NumPy data"):
        read_npz(path)


@pytest.mark.parametrize("size", [0, 1, 0x7FFFFFFF])
def test_a_size_that_is_not_the_members(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.npz"
    data = bytearray(archived(path, np.arange(100)))
    struct.pack_into("<I", data, data.rfind(b"PK\x01\x02") + 24, size)
    path.write_bytes(data)
    with pytest.raises(ComqError):
        extract_npz(path, tmp_path) if is_large(path) else read_npz(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy, "EXTRACT_FROM", 1 << 20)
    path = tmp_path / "a.npz"
    archived(path, np.zeros((1 << 21,), np.float32), zipfile.ZIP_DEFLATED)
    assert is_large(path)
    assert path.stat().st_size < 1 << 14
    with pytest.raises(ComqError, match=r"[0-9,]+ bytes unpack to 8,388,736, as no samples do"):
        extract_npz(path, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_what_packs_as_samples_do_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    array = np.random.default_rng(0).integers(0, 4, 10000)
    archived(path, array, zipfile.ZIP_DEFLATED)
    assert np.array_equal(extract_npz(path, tmp_path)["x"], array)


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archived(tmp_path / "a.npz", np.arange(100))
    monkeypatch.setattr(npy.shutil, "disk_usage", lambda _: npy.shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(ComqError, match="it holds 928 bytes, packed, and there are 10 in"):
        extract_npz(tmp_path / "a.npz", tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_too_many_members_and_two_of_a_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for number in range(1001):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(ComqError, match="it holds 1,001 arrays"):
        read_npz(tmp_path / "many.npz")
    archived(tmp_path / "twice.npz", np.arange(3))
    with zipfile.ZipFile(tmp_path / "twice.npz", "a") as archive:
        archive.writestr("x", b"")
    with pytest.raises(ComqError, match="it holds two arrays named 'x'"):
        read_npz(tmp_path / "twice.npz")


@pytest.mark.parametrize("name", ["../x.npy", "/etc/x.npy", "a/../../x.npy"])
def test_members_are_never_written_where_their_names_say(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "in"
    inner.mkdir()
    archived(tmp_path / "a.npz", np.arange(3), name=name)
    assert list(extract_npz(tmp_path / "a.npz", inner)) == [name.removesuffix(".npy")]
    assert [file.name for file in inner.iterdir()] == ["0.npy"]
