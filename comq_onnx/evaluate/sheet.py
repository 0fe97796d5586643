"""Samples as small pictures, and a PNG file of them, in NumPy alone."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

TILE, SMALLEST = 160, 96
"""Pixels of the longer side of a tile at most, and about at least"""
WAVE = (80, 320)
"""Height and width of the envelope of a sound"""
GAP, PAPER, INK = 6, 128, (43, 123, 217)
COLUMNS = 6


def picture_tile(sample: np.ndarray, axis: int, low: float, high: float) -> np.ndarray:
    """A sample of pictures as ``(height, width, 3)`` uint8, `low` to `high` of all samples as black to white.

    `axis` is that of channels in the sample. Channels one to three are shown as red, green and blue,
    whatever they are.
    """
    pixels = np.moveaxis(sample.astype(np.float64), axis, -1)
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    shades = np.clip((pixels - low) / ((high - low) or 1) * 255, 0, 255)
    longer = max(shades.shape[:2])
    if longer < SMALLEST:
        shades = shades.repeat(-(-SMALLEST // longer), axis=0).repeat(-(-SMALLEST // longer), axis=1)
    return np.rint(_shrunk(shades, -(-longer // TILE))).astype(np.uint8)


def wave_tile(sample: np.ndarray, low: float, high: float) -> np.ndarray:
    """The least and the greatest value of each stretch of a sound, as a band, with a line at zero."""
    height, width = WAVE
    values = sample.reshape(-1).astype(np.float64)
    edges = np.linspace(0, len(values), min(width, len(values)) + 1).astype(int)[:-1]
    lows, highs = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
    reach = max(abs(low), abs(high)) or 1.0
    rows = np.linspace(reach, -reach, height)[:, None]
    half = reach / (height - 1)
    inside = (rows <= highs + half) & (rows >= lows - half)
    tile = np.full((height, len(edges), 3), 255, np.uint8)
    tile[height // 2] = PAPER
    tile[inside] = INK
    return tile


def grid(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Tiles in rows of `COLUMNS` on grey, ``(height, width, 3)`` uint8; each in the corner of its cell."""
    if not tiles:
        return np.full((GAP, GAP, 3), PAPER, np.uint8)
    tall, wide = (max(tile.shape[side] for tile in tiles) + GAP for side in (0, 1))
    columns = min(COLUMNS, len(tiles))
    sheet = np.full((-(-len(tiles) // columns) * tall + GAP, columns * wide + GAP, 3), PAPER, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * tall + GAP, index % columns * wide + GAP
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def stacked(sheets: Sequence[np.ndarray]) -> np.ndarray:
    """Sheets one below the other."""
    wide = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(s, ((0, 0), (0, wide - s.shape[1]), (0, 0)), constant_values=PAPER) for s in sheets]
    return np.concatenate(padded)


def png(pixels: np.ndarray) -> bytes:
    """``(height, width, 3)`` uint8 as a PNG file (ISO/IEC 15948), each row unfiltered."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + width * 3), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _shrunk(pixels: np.ndarray, step: int) -> np.ndarray:
    """Means of squares of `step` pixels; what is left over at the right and below is cut."""
    if step < 2:
        return pixels
    height, width = (max(side // step, 1) for side in pixels.shape[:2])
    cut = pixels[: height * step, : width * step]
    if cut.shape[:2] != (height * step, width * step):  # thinner than a square
        return pixels[::step, ::step]
    return cut.reshape(height, step, width, step, -1).mean(axis=(1, 3))
