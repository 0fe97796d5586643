"""Small pictures in NumPy: Pillow reads the files, and sizes are as said."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from comq_onnx.evaluate.sheet import grid, picture_tile, png, stacked, wave_tile


def test_pillow_reads_back_what_is_written():
    pixels = np.random.default_rng(0).integers(0, 256, (13, 29, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(BytesIO(png(pixels)))), pixels)


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 640, 480), 0), ((640, 480, 3), 2), ((1, 900, 3), 0), ((4, 5, 5), 0)]
)
def test_tiles_are_neither_large_nor_tiny(shape, axis):
    tile = picture_tile(np.random.default_rng(0).random(shape), axis, 0, 1)
    assert tile.dtype == np.uint8
    assert 90 <= max(tile.shape[:2]) <= 160
    assert tile.shape[2] == 3


def test_a_tile_is_the_mean_of_what_it_shrinks():
    sample = np.zeros((1, 320, 320))
    sample[0, ::2] = 1
    assert np.unique(picture_tile(sample, 0, 0, 1)).tolist() == [128]


def test_equal_values_draw_without_a_warning():
    assert not picture_tile(np.full((3, 8, 8), 5.0), 0, 5, 5).any()
    assert wave_tile(np.zeros(7), 0, 0).shape == (80, 7, 3)


def test_sheets_hold_every_tile():
    tiles = [np.full((10 + i, 20, 3), i, np.uint8) for i in range(8)]
    sheet = grid(tiles)
    assert all((sheet == i).all(axis=-1).sum() == tile.shape[0] * 20 for i, tile in enumerate(tiles))
    both = stacked([sheet, grid([])])
    assert both.shape == (sheet.shape[0] + 6, sheet.shape[1], 3)
