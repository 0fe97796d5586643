"""Activations between segments: in memory up to a limit, on disk beyond it."""

from pathlib import Path

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.run.sources import Scratch

Key = tuple[str, str, int]
"""Network, tensor, batch"""


class Store:
    """Arrays by key. What goes to disk comes back with the same bits.

    Parameters
    ----------
    limit
        Bytes kept in memory; an array that would exceed it is written to a temporary folder.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arrays: dict[Key, np.ndarray] = {}
        self._files: dict[Key, tuple[Path, np.dtype, int]] = {}
        self._scratch: Scratch | None = None
        self._written = 0
        self.held = 0
        """Bytes in memory now."""
        self.peak = 0
        """Most bytes that were in memory and on disk together."""
        self.spilled = 0
        """Bytes written to disk in all."""
        self._on_disk = 0

    def put(self, key: Key, value: np.ndarray) -> None:
        """Keep `value`, which nobody may change afterwards. ComqError where the disk does not take it."""
        value = np.asarray(value)
        if key in self._arrays or key in self._files:
            self.drop(key)
        if value.dtype.kind == "O" or self.held + value.nbytes <= self._limit:
            self._arrays[key] = value
            self.held += value.nbytes
        else:
            self._files[key] = self._write(value), value.dtype, value.nbytes
            self.spilled += value.nbytes
            self._on_disk += value.nbytes
        self.peak = max(self.peak, self.held + self._on_disk)

    def get(self, key: Key) -> np.ndarray:
        """The array under `key`; KeyError if there is none."""
        if key in self._arrays:
            return self._arrays[key]
        path, dtype, _ = self._files[key]
        # A file knows the types of `ml_dtypes` by their size alone.
        return np.load(path, allow_pickle=False).view(dtype)

    def arrays(self) -> dict[Key, np.ndarray]:
        """All arrays by key."""
        return {key: self.get(key) for key in (*self._arrays, *self._files)}

    def drop(self, key: Key) -> None:
        """Forget the array under `key`; KeyError if there is none."""
        if key in self._arrays:
            self.held -= self._arrays.pop(key).nbytes
        else:
            path, _, size = self._files.pop(key)
            self._on_disk -= size
            path.unlink()

    def move(self, key: Key, to: Key) -> None:
        """Have the array under `key` under another key."""
        if key in self._arrays:
            self._arrays[to] = self._arrays.pop(key)
        else:
            self._files[to] = self._files.pop(key)

    def _write(self, value: np.ndarray) -> Path:
        self._written += 1
        try:
            self._scratch = self._scratch or Scratch()
            path = self._scratch.path / f"{self._written}.npy"
            np.save(path, value, allow_pickle=False)
        except OSError as error:
            raise ComqError(
                f"activations exceed the memory limit and cannot be written to disk ({error.strerror})",
                where=str(self._scratch.path if self._scratch else "the folder for temporary files"),
                fix="raise --memory, lower --calibration-samples, or set TMPDIR to a folder with more space",
            ) from error
        return path
