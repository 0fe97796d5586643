"""From a file to the pixels that a model is fed, by Pillow's own resizing, which smooths as it shrinks.

Rounding is that of torchvision on Pillow pictures: the longer side is cut to whole pixels, the place of a
crop is rounded half to even. Padding is that of Ultralytics' LetterBox: an odd pixel goes right and below.
"""

import struct
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.muted import ERRORS, muted
from comq_onnx.preprocess import MOST_PIXELS
from comq_onnx.run.feeds.picture_plan import PicturePlan

MODES = {"rgb": "RGB", "bgr": "RGB", "grey": "L", "rgba": "RGBA", "bgra": "RGBA"}
BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error)
"""What Pillow's readers raise on broken files"""


def pillow() -> Any:
    """Pillow's Image module. ComqError that names the extra where it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise ComqError(
            "Pillow is needed to read pictures",
            where="--calibration-data",
            fix="pip install 'comq-onnx[images]'",
        ) from None
    return Image


def read_picture(path: Path, plan: PicturePlan) -> np.ndarray:
    """The resized and cropped picture, ``(height, width, channels)`` uint8 in the plan's colours, unpadded.

    It stands upright, as its EXIF orientation says. ComqError where it cannot be read, or is larger than
    Pillow's bound on pixels.
    """
    Image = pillow()
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            # Of a picture beyond the bound Pillow warns, and of twice that it refuses.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened, _quietly(opened):
                picture = ImageOps.exif_transpose(opened)
                picture = _eight_bit(picture, path).convert(MODES[plan.colour])
                picture = _resized(picture, plan, path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ComqError(
            f"the picture has more than {Image.MAX_IMAGE_PIXELS:,} pixels",
            where=str(path),
            fix="shrink it, or take it out of the folder",
        ) from None
    except BROKEN as error:
        raise ComqError(
            f"the picture cannot be read ({str(error) or type(error).__name__})",
            where=str(path),
            fix="take it out of the folder, or save it again",
        ) from None
    pixels = np.asarray(picture)
    if plan.colour in ("bgr", "bgra"):
        pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))


def _quietly(opened: Any) -> AbstractContextManager[None]:
    """libtiff prints what is wrong with a file, besides telling Pillow."""
    return muted(ERRORS) if opened.format == "TIFF" else nullcontext()


def fed(pixels: np.ndarray, plan: PicturePlan) -> np.ndarray:
    """What `read_picture` gave as the model's input, ``(1, ...)``: padded, normalised, in its layout."""
    array = pixels.astype(np.float32) if plan.normalised else pixels
    height, width = (side or have for side, have in zip(plan.size, pixels.shape[:2], strict=True))
    if (height, width) != pixels.shape[:2]:
        canvas = np.full((height, width, pixels.shape[2]), plan.how.fill, array.dtype)
        below, right = height - pixels.shape[0], width - pixels.shape[1]
        top, left = (0, 0) if plan.how.place == "corner" else (below // 2, right // 2)
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = array
        array = canvas
    if plan.normalised:
        if plan.how.unit == 1:
            array = array / np.float32(255)
        array = (array - plan.mean) / plan.std
    if not plan.channels_last:
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array[None], dtype=np.float32 if plan.normalised else plan.dtype)


def _eight_bit(picture: Any, path: Path) -> Any:
    """Pictures of more than 8 bits, which Pillow would clip instead of scale."""
    if picture.mode.startswith("I;16"):
        return pillow().fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ComqError(
            f"its pixels are of Pillow's mode {picture.mode}, whose range is not known",
            where=str(path),
            fix="save it with 8 or 16 bits",
        )
    return picture


def _resized(picture: Any, plan: PicturePlan, path: Path) -> Any:
    width, height = picture.size
    inner = inner_size((height, width), plan)
    if max(inner) > MOST_PIXELS:
        raise ComqError(
            f"it would be {inner[0]}x{inner[1]} pixels", where=str(path), fix="take it out of the folder"
        )
    kind = pillow().Resampling[str(plan.how.filter).upper()]
    if inner != (height, width):
        picture = picture.resize((inner[1], inner[0]), kind)
    if plan.how.resize != "short" or None in plan.size:
        _check_fits(inner, plan, path)
        return picture
    tall, wide = inner[0] - (plan.size[0] or 0), inner[1] - (plan.size[1] or 0)
    top, left = round(tall / 2), round(wide / 2)
    return picture.crop((left, top, left + (plan.size[1] or 0), top + (plan.size[0] or 0)))


def inner_size(have: tuple[int, int], plan: PicturePlan) -> tuple[int, int]:
    """(height, width) that a picture of the size `have` is resized to, before it is cropped or padded."""
    (h, w), (height, width), how = have, plan.size, plan.how
    step = how.multiple or 1
    if how.resize == "none":
        return _near(h, step), _near(w, step)
    if height is None:
        return (_near(h * (width or w) / w, step), width or w)
    if width is None:
        return height, _near(w * height / h, step)
    if how.resize == "exact":
        return height, width
    if how.resize == "pad":
        ratio = min(height / h, width / w)
        return max(1, round(h * ratio)), max(1, round(w * ratio))
    tall, wide = int(height / (how.crop or 1)), int(width / (how.crop or 1))
    return (tall, tall * w // h) if tall * w >= wide * h else (wide * h // w, wide)


def _near(side: float, step: int) -> int:
    """The multiple of `step` nearest to `side`, one step at least."""
    return max(1, round(side / step)) * step


def _check_fits(inner: tuple[int, int], plan: PicturePlan, path: Path) -> None:
    if plan.how.resize == "none" and any(s not in (None, i) for s, i in zip(plan.size, inner, strict=True)):
        raise ComqError(
            f"it has {inner[0]}x{inner[1]} pixels and the model wants "
            f"{'x'.join(str(side or '?') for side in plan.size)}",
            where=str(path),
            fix="leave resize=none out",
        )
