"""Calibration and test data never meet, and are the same on every call."""

import numpy as np
import pytest

pytest.importorskip("PIL")

from zoo import photographs, text


def test_no_word_is_in_both_parts():
    calibration, test = (set(map(str.lower, text.words(part))) for part in ("calibration", "test"))
    assert len(calibration) > 500
    assert len(test) > 500
    assert not calibration & test


def test_no_photograph_is_in_both_parts():
    assert not set(photographs.CALIBRATION) & set(photographs.TEST)


def test_crop_windows_lie_inside_the_picture_and_vary():
    rng = np.random.default_rng(0)
    seen = [photographs.window(rng, 60, 41) for _ in range(500)]
    assert all(min(x, y) >= 0 and x + side <= 60 and y + side <= 41 for x, y, side in seen)
    assert {side for _, _, side in seen} == set(range(14, 42))


def test_a_sentence_is_a_function_of_its_seed():
    def draw(seed):
        return text.sentence(np.random.default_rng(seed), "test", 5)

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_input_is_scaled_to_plus_minus_one():
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 255)
    made = text.as_input(pixels)
    assert made.shape == (1, 3, 4, 6)
    assert made[0, :, 0, 0].tolist() == [1.0, -1.0, 1.0]
