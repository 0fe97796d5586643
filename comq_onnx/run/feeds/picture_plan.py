"""How pictures become a model's input: what is asked for, over what the model says, over what is usual."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.preprocess import CHANNELS, FLAG, SOUND_KEYS, Preprocess, parse, refuse_keys
from comq_onnx.run.feeds.metadata import told_by
from comq_onnx.run.session import TensorSpec, is_float

COUNTS = (1, 3, 4)
COLOURS = {1: "grey", 3: "rgb", 4: "rgba"}
HOW = "say it by --preprocess (a preset such as tf or unit, or mean=...,std=...); --preview-data shows it"


@dataclass(frozen=True)
class PicturePlan:
    """How each picture is prepared; `size` is (height, width), None where each picture has its own."""

    input: str
    dtype: np.dtype
    channels_last: bool
    colour: str
    size: tuple[int | None, int | None]
    how: Preprocess
    """With every key that pictures have, but for `size`"""
    notes: tuple[str, ...]
    """What was assumed, a sentence each"""

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.how.mean or (0.0,), np.float32)

    @property
    def std(self) -> np.ndarray:
        return np.asarray(self.how.std or (1.0,), np.float32)

    @property
    def normalised(self) -> bool:
        """Whether pixels become floats: integers are fed as they are."""
        return is_float(self.dtype)

    def __str__(self) -> str:
        sides = "x".join("?" if side is None else str(side) for side in self.size)
        layout = "NHWC" if self.channels_last else "NCHW"
        shape = f"{sides} {self.colour.upper()} {layout}, resize {self.how.resize}"
        if not self.normalised:
            return f"{shape}, pixels of 0 to 255"
        numbers = [",".join(f"{value:g}" for value in values) for values in (self.mean, self.std)]
        return f"{shape}, ({'x/255' if self.how.unit == 1 else 'x'} - {numbers[0]}) / {numbers[1]}"


def picture_axes(shape: Sequence[int | None]) -> tuple[int, int] | None:
    """The axis of channels of an input of pictures, and how many it has; None where it is no such input."""
    if len(shape) != 4:
        return None
    found = [(axis, size) for axis in (1, 3) if (size := shape[axis]) in COUNTS and size is not None]
    return found[0] if found else None


def plan_pictures(inputs: Sequence[TensorSpec], preprocess: str, metadata: Mapping[str, str]) -> PicturePlan:
    """The plan for a model's one input of pictures.

    ComqError where the model has no such input, or others besides, or where the text and the model disagree.
    """
    asked = parse(preprocess)
    refuse_keys(asked.says.keys() & set(SOUND_KEYS), "pictures")
    spec = _input_of(inputs)
    told = told_by(metadata, spec)
    says = asked.says.over(told[1]) if told else asked.says
    channels_last, count = _channels(spec, says)
    colour = says.colour or COLOURS[count]
    if CHANNELS[colour] != count:
        raise ComqError(
            f"{colour} has {CHANNELS[colour]} channels and the model's input '{spec.name}' has {count}",
            where=FLAG,
            fix="give another colour, or layout",
        )
    notes = []
    if says.mean is None and says.std is None and is_float(spec.dtype):
        preset = "imagenet" if count == 3 else "unit,resize=short"
        says = says.over(parse(preset).says)
        notes.append(_assumed(count))
    if says.colour is None and count == 3 and not asked.preset:
        notes.append("channels are fed as red, green, blue, as nothing says otherwise (colour=bgr does).")
    if told and not asked.preset:
        notes.append(f"pictures are prepared by {told[0]}; --preprocess says otherwise.")
    how = says.over(parse("resize=short,crop=1,multiple=1,place=centre,fill=0,filter=bilinear").says)
    size = _size(spec, channels_last, (asked.says.size, how.size or asked.size), how.resize == "none")
    plan = PicturePlan(spec.name, spec.dtype, channels_last, colour, size, how, tuple(notes))
    _check(plan, count)
    return plan


def _assumed(count: int) -> str:
    what = "ImageNet's mean and deviation (preset imagenet)" if count == 3 else "pixels of 0 to 1 (unit)"
    return f"NOTHING SAYS HOW PICTURES ARE NORMALISED: {what} was assumed. If that is wrong, {HOW}."


def _input_of(inputs: Sequence[TensorSpec]) -> TensorSpec:
    pictures = [spec for spec in inputs if len(spec.shape) == 4]
    others = [spec.name for spec in inputs if spec not in pictures[:1]]
    if not pictures:
        raise ComqError(
            "the model has no input of pictures, of rank 4",
            where="--calibration-data",
            fix="give arrays (.npz), or a function of your own as module:callable",
        )
    if others:
        raise ComqError(
            f"pictures feed the input '{pictures[0].name}', and '{others[0]}' wants values too",
            where="--calibration-data",
            fix="give arrays for every input (.npz), or a function of your own as module:callable",
        )
    return pictures[0]


def _channels(spec: TensorSpec, says: Preprocess) -> tuple[bool, int]:
    """Whether channels come last, and how many there are."""
    if says.layout is None:
        found = picture_axes(spec.shape)
        if found is None:
            raise ComqError(
                f"which dimension of input '{spec.name}' holds the channels is not to be seen",
                where=FLAG,
                fix="say layout=nchw or layout=nhwc",
            )
        return found[0] == 3, found[1]
    last = says.layout == "nhwc"
    size = spec.shape[3 if last else 1]
    if size is None:
        return last, CHANNELS[says.colour or "rgb"]
    if size not in COUNTS:
        raise ComqError(
            f"with layout={says.layout} input '{spec.name}' has {size} channels, which no picture has",
            where=FLAG,
            fix="leave the layout out",
        )
    return last, size


def _size(
    spec: TensorSpec,
    channels_last: bool,
    given: tuple[tuple[int, int] | None, tuple[int, int] | None],
    free: bool,
) -> tuple[int | None, int | None]:
    """Height and width, the model's before those asked for and those that are usual.

    `given` are the size asked for, and that of a preset or of metadata. A side that stays unknown follows
    the other, or with `free` is the picture's own.
    """
    sides = spec.shape[1:3] if channels_last else spec.shape[2:4]
    asked, usual = given
    if asked is not None:
        for side, want in zip(sides, asked, strict=True):
            if side not in (None, want):
                raise ComqError(
                    f"size={asked[0]}x{asked[1]} does not fit the model's input '{spec.name}' of "
                    f"{'x'.join(str(s or '?') for s in sides)}",
                    where=FLAG,
                    fix="leave size out",
                )
        return asked
    if sides == (None, None):
        if usual is not None and not free:
            return usual
        if not free:
            raise ComqError(
                f"the model's input '{spec.name}' has no fixed height and width",
                where=FLAG,
                fix="say size=224 or size=480x640, or resize=none to feed pictures as large as they are",
            )
    return sides[0], sides[1]


def _check(plan: PicturePlan, count: int) -> None:
    for name, values in (("mean", plan.mean), ("std", plan.std)):
        if len(values) not in (1, count):
            raise ComqError(
                f"{name} has {len(values)} numbers for {count} channels",
                where=FLAG,
                fix="give one, or one for each channel",
            )
    if not plan.normalised and plan.dtype not in (np.uint8, np.int16, np.int32, np.int64, np.uint16):
        raise ComqError(
            f"pixels of 0 to 255 do not fit the type {plan.dtype} of input '{plan.input}'",
            where="--calibration-data",
            fix="give arrays (.npz)",
        )
