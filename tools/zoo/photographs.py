"""Crops of the natural photographs that scikit-image and scikit-learn carry.

Calibration and test photographs are disjoint. The stereo pair shows one scene, so both halves are test.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.wheels import file_in_wheel

Photograph = tuple[str, str]
"""Package and file inside it"""

CALIBRATION: tuple[Photograph, ...] = (
    ("skimage", "data/coffee.png"),
    ("skimage", "data/chelsea.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
)
TEST: tuple[Photograph, ...] = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/motorcycle_right.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/brick.png"),
)


def open_photograph(photograph: Photograph) -> Image.Image:
    path: Path = file_in_wheel(*photograph)
    return Image.open(path).convert("RGB")


def window(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of a random square of 0.35 to all of the shorter side, inside the picture."""
    side = round(min(width, height) * rng.uniform(0.35, 1.0))
    return int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1)), side


def crops(photographs: Sequence[Photograph], count: int, size: int, seed: int) -> np.ndarray:
    """`count` random crops, ``(count, size, size, 3)`` uint8 RGB, taken from the photographs in turn.

    Half of them are mirrored.
    """
    rng = np.random.default_rng(seed)
    opened = [open_photograph(photograph) for photograph in photographs]
    made = np.empty((count, size, size, 3), dtype=np.uint8)
    for index in range(count):
        image = opened[index % len(opened)]
        left, top, side = window(rng, image.width, image.height)
        crop = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        made[index] = np.asarray(crop)[:, :: (-1 if rng.random() < 0.5 else 1)]
    return made
