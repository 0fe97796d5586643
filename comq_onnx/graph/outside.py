"""Tensors kept out of memory: in a scratch file that they refer to, or for weighing alone, nowhere."""

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import BinaryIO, Protocol

from onnx import TensorProto

from comq_onnx.errors import ComqError
from comq_onnx.graph.external import is_external, point_to
from comq_onnx.graph.spill import SMALL, append, raw_bytes
from comq_onnx.graph.tensors import stored_bytes


class Outside(Protocol):
    """A place for the values of tensors."""

    def take(self, tensor: TensorProto) -> None:
        """Move the values of `tensor` out; one that is small, or is out already, stays as it is."""
        ...


class ScratchFile:
    """A file in a temporary folder that lives as long as this object, and is removed with it or at exit."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="comq-weights-")).resolve()
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._file: BinaryIO | None = None

    def take(self, tensor: TensorProto) -> None:
        """See `Outside`. ComqError where the disk does not take it."""
        if not _movable(tensor):
            return
        path = self.folder / "weights.data"
        try:
            if self._file is None:
                self._file = path.open("wb")
                weakref.finalize(self, self._file.close)
            offset, length = append(self._file, raw_bytes(tensor))
            # Whoever reads it opens the file anew.
            self._file.flush()
        except OSError as error:
            raise ComqError(
                f"weights do not fit in memory and cannot be written to disk ({error.strerror})",
                where=str(self.folder),
                fix="raise --memory, or set TMPDIR to a folder with more space",
            ) from error
        point_to(tensor, str(path), offset, length)


class Nowhere:
    """Counts what it takes and forgets it: the model that is left can be weighed, but not run."""

    def __init__(self) -> None:
        self.bytes = 0
        """Of the values taken"""

    def take(self, tensor: TensorProto) -> None:
        """See `Outside`."""
        if _movable(tensor):
            length = stored_bytes(tensor)
            self.bytes += length
            point_to(tensor, str(Path(tempfile.gettempdir()).resolve() / "nowhere"), 0, length)


def _movable(tensor: TensorProto) -> bool:
    return not is_external(tensor) and stored_bytes(tensor) > SMALL
