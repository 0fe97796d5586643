"""What is done to a picture or a sound before a model sees it, as text: ``imagenet,size=256,colour=bgr``.

A text is the name of a preset, or ``key=value`` pairs, or both: a preset goes first, and pairs win over it.
Values of several channels are joined by commas too (``mean=0.5,0.5,0.5``), in the order the channels are fed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from comq_onnx.errors import ComqError
from comq_onnx.presets import PRESETS

FLAG = "--preprocess"
MOST_PIXELS = 1 << 15
"""Of a side of a picture, as it is fed"""
SLOWEST, FASTEST = 100, 1_000_000
"""Samples a second of a sound"""
SOUND_KEYS = ("rate", "window", "normalize")
CHANNELS = {"rgb": 3, "bgr": 3, "grey": 1, "rgba": 4, "bgra": 4}
ALIASES = {"color": "colour", "crop-pct": "crop", "interpolation": "filter", "normalise": "normalize"}
WORDS = {
    "resize": ("short", "exact", "pad", "none"),
    "place": ("centre", "corner"),
    "filter": ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"),
    "layout": ("nchw", "nhwc"),
    "colour": tuple(CHANNELS),
    "normalize": ("none", "zscore", "peak"),
}
SPELLINGS = {"gray": "grey", "center": "centre", "letterbox": "pad", "chw": "nchw", "hwc": "nhwc"}


@dataclass(frozen=True)
class Preprocess:
    """What a text says; None where it says nothing.

    `mean` and `std` are in units of pixels of 0 to `unit`, 1 or 255: what is fed is ``(pixel - mean) / std``.
    `size` is (height, width). `crop` is the share of the shorter side that is kept. `rate` is in samples a
    second, `window` in samples.
    """

    size: tuple[int, int] | None = None
    resize: str | None = None
    crop: float | None = None
    multiple: int | None = None
    place: str | None = None
    fill: float | None = None
    filter: str | None = None
    unit: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    colour: str | None = None
    rate: int | None = None
    window: int | None = None
    normalize: str | None = None

    def keys(self) -> set[str]:
        """What it says something of."""
        return {f.name for f in fields(self) if getattr(self, f.name) is not None}

    def over(self, other: "Preprocess") -> "Preprocess":
        """This, and what it does not say as `other` says it.

        Means of one unit never meet deviations of another.
        """
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        theirs = {f.name: getattr(other, f.name) for f in fields(other)}
        if self.unit is not None and self.unit != other.unit:
            theirs |= {"mean": None, "std": None}
        return Preprocess(**{k: theirs[k] if value is None else value for k, value in mine.items()})


@dataclass(frozen=True)
class Parsed:
    """A text that was read: the preset it names ("" for none), and all that it says, the preset included."""

    preset: str
    says: Preprocess
    size: tuple[int, int] | None
    """The preset's own size, for models that have none"""


def parse(text: str) -> Parsed:
    """Read a text such as ``imagenet`` or ``mean=0.5,0.5,0.5,std=0.5,resize=pad``; empty says nothing.

    ComqError for unknown presets and keys, and for values that cannot be meant.
    """
    first, pairs = pairs_of(text)
    said = preprocess_of(pairs)
    if not first:
        return Parsed("", said, None)
    if first not in PRESETS:
        raise ComqError(f"there is no preset '{first}'", where=FLAG, fix=_nearest(first, PRESETS))
    preset = PRESETS[first]
    size = (preset.size, preset.size) if preset.size else None
    return Parsed(first, said.over(preprocess_of(pairs_of(preset.text)[1])), size)


def refuse_keys(keys: set[str], what: str) -> None:
    """ComqError for keys that say nothing of `what`, pictures or sounds."""
    for key in sorted(keys):
        raise ComqError(f"{key} is said, which {what} have not", where=FLAG, fix="leave it out")


def preprocess_of(pairs: Mapping[str, str]) -> Preprocess:
    """What key=value pairs say."""
    for a, b in (("mean", "mean255"), ("std", "std255"), ("mean", "std255"), ("std", "mean255")):
        if a in pairs and b in pairs:
            raise ComqError(f"{a} and {b} are in different units", where=FLAG, fix="use one unit for both")
    found: dict[str, Any] = {}
    for key, text in pairs.items():
        name = key.removesuffix("255")
        found[name] = READERS[key](key, text)
        if name in ("mean", "std"):
            found["unit"] = 255 if key.endswith("255") else 1
    return Preprocess(**found)


def pairs_of(text: str) -> tuple[str, dict[str, str]]:
    """Preset and pairs of a text. A part without ``=`` is the preset, or one more number of a list."""
    preset, pairs, last = "", {}, ""
    for index, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and last in LISTS and _is_number(part):
            pairs[last] += f",{part}"
            continue
        if not equals:
            if index:
                raise ComqError(f"'{part}' is no key=value", where=FLAG, fix="name a preset first, once")
            preset = part.lower()
            continue
        last = key.lower().replace("_", "-")
        last = ALIASES.get(last, last)
        if last not in READERS:
            raise ComqError(f"'{key}' is no key of it", where=FLAG, fix=_nearest(last, READERS))
        if last in pairs:
            raise ComqError(f"'{key}' is given twice", where=FLAG, fix="leave one of them out")
        pairs[last] = value
    return preset, pairs


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(word, known, 1)
    return f"did you mean {close[0]}" if close else f"use one of {', '.join(known)}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _wrong(key: str, text: str, wanted: str) -> ComqError:
    return ComqError(f"'{text}' is no {key}", where=FLAG, fix=wanted)


def _word(key: str, text: str) -> str:
    word = SPELLINGS.get(text.lower(), text.lower())
    if word not in WORDS[key]:
        raise _wrong(key, text, f"use one of {', '.join(WORDS[key])}")
    return word


def _whole(key: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise _wrong(key, text, "give a whole number from 1")
    return int(text)


def _rate(key: str, text: str) -> int:
    if not text.isdecimal() or not SLOWEST <= int(text) <= FASTEST:
        raise _wrong(key, text, f"give samples a second, from {SLOWEST} to {FASTEST}")
    return int(text)


def _size(key: str, text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= MOST_PIXELS for side in sides):
        raise _wrong(key, text, f"write 224, or 224x256 (height x width), up to {MOST_PIXELS}")
    return int(sides[0]), int(sides[-1])


def _share(key: str, text: str) -> float:
    if not _is_number(text) or not 0 < float(text) <= 1:
        raise _wrong(key, text, "give the share of the picture that is kept, such as 0.875")
    return float(text)


def _fill(key: str, text: str) -> float:
    if not _is_number(text) or not 0 <= float(text) <= 255:
        raise _wrong(key, text, "give a pixel of 0 to 255")
    return float(text)


def _numbers(key: str, text: str) -> tuple[float, ...]:
    parts = text.split(",")
    if len(parts) > 4 or not all(_is_number(part) and math.isfinite(float(part)) for part in parts):
        raise _wrong(key, text, "give one number, or one for each channel")
    values = tuple(map(float, parts))
    if key.startswith("std") and min(values) <= 0:
        raise _wrong(key, text, "give numbers above 0")
    if not key.endswith("255") and max(map(abs, values)) > 1:
        raise ComqError(
            f"{key}={text} is not in units of pixels of 0 to 1",
            where=FLAG,
            fix=f"write {key}255={text} for pixels of 0 to 255",
        )
    if key == "mean255" and 0 < max(map(abs, values)) <= 1:
        raise ComqError(
            f"{key}={text} is not in units of pixels of 0 to 255",
            where=FLAG,
            fix=f"write mean={text} for pixels of 0 to 1",
        )
    return values


LISTS = ("mean", "std", "mean255", "std255")
READERS: dict[str, Callable[[str, str], Any]] = {
    "size": _size,
    "crop": _share,
    "multiple": _whole,
    "fill": _fill,
    "rate": _rate,
    "window": _whole,
    **dict.fromkeys(WORDS, _word),
    **dict.fromkeys(LISTS, _numbers),
}
"""How the value of each key is read"""
