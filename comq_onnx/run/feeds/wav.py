"""WAV files as arrays: PCM of 8, 16, 24 and 32 bits, and floats, which the standard library does not read.

The format is that of RIFF (Multimedia Programming Interface 1.0) with WAVEFORMATEXTENSIBLE.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.preprocess import FASTEST, SLOWEST

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Sound:
    """Mono samples of -1 to 1, float32, and how many there are in a second."""

    samples: np.ndarray
    rate: int


def read_wav(path: Path) -> Sound:
    """The mean of a file's channels. ComqError where it cannot be read or is packed in another way."""
    try:
        data = path.read_bytes()
        kind, channels, rate, bits, body = _chunks(data)
        values = _values(body, kind, bits)
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinities")
        frames = values[: len(values) // channels * channels].reshape(-1, channels)
        return Sound(frames.mean(axis=1, dtype=np.float32), rate)
    except (OSError, ValueError, struct.error, ZeroDivisionError) as error:
        raise ComqError(
            f"the sound cannot be read ({error})",
            where=str(path),
            fix="save it as a PCM or float WAV file, or take it out of the folder",
        ) from None


def _chunks(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Format, channels, rate, bits and the bytes of samples; a length beyond the file ends with it."""
    if data[:4] not in (b"RIFF", b"RF64") or data[8:12] != b"WAVE":
        raise ValueError("it is no WAV file")
    at, form, body = 12, b"", None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        if name == b"fmt ":
            form = data[at + 8 : at + 8 + size]
        if name == b"data":
            body = data[at + 8 : at + 8 + size]
            break
        at += 8 + size + size % 2
    if len(form) < 16 or body is None:
        raise ValueError("it has no format or no samples")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    if kind == EXTENSIBLE and len(form) >= 26:
        kind = struct.unpack("<H", form[24:26])[0]
    if not channels:
        raise ValueError("it has no channels")
    if not SLOWEST <= rate <= FASTEST:
        raise ValueError(f"{rate} samples a second are no sound")
    return kind, channels, rate, bits, body


def _values(body: bytes, kind: int, bits: int) -> np.ndarray:
    width = bits // 8
    whole = body[: len(body) // width * width] if width else b""
    if kind == FLOAT and bits in (32, 64):
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes Inf, which is refused
            return np.frombuffer(whole, f"<f{width}").astype(np.float32)
    if kind != PCM or bits not in (8, 16, 24, 32):
        raise ValueError(f"format {kind} of {bits} bits is not read")
    if bits == 8:
        return (np.frombuffer(whole, np.uint8).astype(np.float32) - 128) / 128
    if bits == 24:
        three = np.frombuffer(whole, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(three), 4), np.uint8)
        wide[:, 1:] = three  # the upper bytes of 32 bits
        return (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return (np.frombuffer(whole, f"<i{width}") / 2.0 ** (bits - 1)).astype(np.float32)
