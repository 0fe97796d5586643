""".npy and .npz files from anywhere: nothing is unpickled, and no more memory is taken than a file holds.

The header is read first, and what it declares is compared with the bytes that are there. The format is
`NEP 1 <https://numpy.org/neps/nep-0001-npy-format.html>`_.
"""

import lzma
import math
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from comq_onnx.errors import ComqError

MAP_FROM = 1 << 24
"""Bytes of a .npy file from which it is memory-mapped instead of read."""
EXTRACT_FROM = 1 << 28
"""Bytes inside a .npz file from which its members are unpacked to disk and memory-mapped."""
MOST_PACKED = 200
"""Times a large .npz may grow when it is unpacked. Only constants come near: deflate ends at 1032."""
MOST_MEMBERS = 1000
"""Of a .npz: a model has not so many inputs."""
_BROKEN = (
    *(
        ValueError,
        TypeError,
        OSError,
        EOFError,
        LookupError,
        RuntimeError,
        NotImplementedError,
        OverflowError,
    ),
    *(SyntaxError, MemoryError, tokenize.TokenError, struct.error),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What NumPy's and zipfile's readers raise on files that are cut or are no such files. A header is read as a
Python expression, whose parser says MemoryError where brackets are nested too deeply."""


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file; a large one is mapped. ComqError where it is none, or holds objects."""
    with _explained(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            array = _array(file, size, mapped=path if size >= MAP_FROM else None)
    return array


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name. ComqError where it is none, or a member is no array."""
    with _explained(path), zipfile.ZipFile(path) as archive:
        _check_members(archive, path)
        arrays = {}
        for member in archive.infolist():
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = _array(file, member.file_size)
        return arrays


def is_large(path: Path) -> bool:
    """Whether a .npz file is to be unpacked to disk instead of memory."""
    return _unpacked_bytes(path) >= EXTRACT_FROM


def extract_npz(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """As `read_npz`, unpacked into `folder`: no more than a copy buffer of it is in memory at a time.

    ComqError too where the disk is too small, or the file grows as no data do.
    """
    size, free = _unpacked_bytes(path), shutil.disk_usage(folder).free
    if size > MOST_PACKED * path.stat().st_size:
        raise ComqError(
            f"{path.stat().st_size:,} bytes unpack to {size:,}, as no samples do",
            where=str(path),
            fix="save it again with np.savez, which does not pack, if it is sound",
        )
    if size > free:
        raise ComqError(
            f"it holds {size:,} bytes, packed, and there are {free:,} in {folder.parent} to unpack it",
            where=str(path),
            fix="save fewer samples, or set TMPDIR to a larger disk",
        )
    arrays = {}
    with _explained(path), zipfile.ZipFile(path) as archive:
        _check_members(archive, path)
        for number, member in enumerate(archive.infolist()):
            target = folder / f"{number}.npy"
            with archive.open(member) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
            arrays[member.filename.removesuffix(".npy")] = read_npy(target)
    return arrays


def _array(file: IO[bytes], size: int, mapped: Path | None = None) -> np.ndarray:
    """The array of `size` bytes, header included, at the beginning of `file`, or mapped from a path."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for records of named fields
        raise ValueError(f"version {version} holds no plain numbers")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Python objects")
    at, count = file.tell(), math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize > size - at:
        raise EOFError("it is cut")
    if mapped is not None and count:
        return np.memmap(mapped, dtype, "r", at, shape, "F" if fortran else "C")
    values = np.frombuffer(file.read(count * dtype.itemsize), dtype, count) if count else np.zeros(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _unpacked_bytes(path: Path) -> int:
    with _explained(path), zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """ComqError for an archive of too many arrays, or of two of one name."""
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    if len(names) > MOST_MEMBERS:
        raise ComqError(f"it holds {len(names):,} arrays", where=str(path), fix="give one for each input")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ComqError(f"it holds two arrays named '{twice[0]}'", where=str(path), fix="save it again")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What is wrong with a file, in one sentence."""
    try:
        yield
    except _BROKEN as error:
        if "Python objects" in str(error):
            raise ComqError(
                "it holds pickled Python objects, which are never read",
                where=str(path),
                fix="save plain numeric arrays",
            ) from None
        why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise ComqError(
            f"it cannot be read as NumPy data{why}", where=str(path), fix="save it again, it may be truncated"
        ) from None
