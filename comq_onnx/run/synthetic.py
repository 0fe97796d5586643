"""Structured inputs for a model that came without data: deterministic, and never a substitute for data.

What a layer's Gram matrix needs from an input is its correlations. White noise has none, so images mix 1/f
noise with dead leaves (occluding discs of power-law size, whose statistics are close to those of natural
images: Lee, Mumford and Huang 2001), sound is 1/f noise, and token ids are valid ids with a mask that agrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from comq_onnx.errors import ComqError
from comq_onnx.recipe import Recipe
from comq_onnx.run.session import TensorSpec, is_float

Kind = Literal["image", "sound", "normal", "ids", "ones", "zeros", "positions", "true"]

SHAPES_FLAG = "--calibration-shapes"
SEQUENCE = 128
SIDE = 224
WAVE_FROM = 256
"""Length from which the last axis of a float input is taken for time."""
VOCABULARY = 1000
"""Ids are drawn below this where the model's vocabulary is not known."""
DISCS = 150

_SAYS = {
    "image": "1/f noise and dead leaves",
    "sound": "1/f noise",
    "normal": "normal noise",
    "ids": "random ids",
    "ones": "ones",
    "zeros": "zeros",
    "positions": "0, 1, 2, ...",
    "true": "true",
}


@dataclass(frozen=True)
class Planned:
    """What one input is fed."""

    spec: TensorSpec
    shape: tuple[int, ...]
    kind: Kind
    channels_last: bool = False
    ids: int = VOCABULARY

    @property
    def says(self) -> str:
        drawn = f" below {self.ids}" if self.kind == "ids" else ""
        return f"{'x'.join(map(str, self.shape)) or 'scalar'} {_SAYS[self.kind]}{drawn}"

    def with_lead(self, lead: int) -> "Planned":
        return replace(self, shape=(lead, *self.shape[1:])) if self.shape else self


def plan(inputs: Sequence[TensorSpec], recipe: Recipe, vocabulary: dict[str, int]) -> list[Planned]:
    """Decide shape and kind of every input.

    ComqError naming the input and the flag where a dynamic dimension has no sensible default, and for shapes
    of the recipe that do not fit the model.
    """
    given = parse_shapes(recipe.calibration_shapes)
    unknown = sorted(set(given) - {spec.name for spec in inputs})
    if unknown:
        listed = ", ".join(f"'{spec.name}'" for spec in inputs)
        raise ComqError(
            f"'{unknown[0]}' is no input of the model", where=SHAPES_FLAG, fix=f"its inputs are {listed}"
        )
    lengths = [
        given[spec.name][1]
        for spec in inputs
        if spec.dtype.kind in "iu" and len(given.get(spec.name, ())) == 2
    ]
    sequence = lengths[0] if lengths else SEQUENCE
    return [_plan_input(spec, given.get(spec.name), sequence, vocabulary) for spec in inputs]


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """``"image:1x3x224x224,ids:1x128"`` as shapes by name; names may hold colons. ComqError if malformed."""
    shapes = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, dims = item.rpartition(":")
        if not (name and colon and all(dim.isdecimal() for dim in dims.split("x"))):
            raise ComqError(
                f"'{item}' is no shape", where=SHAPES_FLAG, fix="write it as name:1x3x224x224,other:1x128"
            )
        shapes[name] = tuple(int(dim) for dim in dims.split("x"))
    return shapes


def make(plan: Sequence[Planned], seed: int, sample: int) -> dict[str, np.ndarray]:
    """The feeds of one sample: the same for the same seed and sample, whatever came before."""
    feeds = {}
    for i, item in enumerate(plan):
        rng = np.random.default_rng((seed, i, sample))
        feeds[item.spec.name] = np.asarray(_values(item, rng)).astype(item.spec.dtype)
    return feeds


def _plan_input(
    spec: TensorSpec, given: tuple[int, ...] | None, sequence: int, vocabulary: dict[str, int]
) -> Planned:
    kind, channels_last = _kind_of(spec, given or spec.shape)
    if given is not None:
        fits = len(given) == len(spec.shape) and all(
            want in (None, have) for want, have in zip(spec.shape, given, strict=True)
        )
        if not fits:
            raise ComqError(
                f"{list(given)} does not fit input '{spec.name}', which is {_declared(spec)}",
                where=SHAPES_FLAG,
                fix="give a shape that agrees with it",
            )
        shape = given
    else:
        shape = _default_shape(spec, kind, sequence)
    if 0 in shape:
        raise ComqError(
            f"nothing is made up for {list(shape)}, which has no elements",
            where=f"input '{spec.name}'",
            fix="give --calibration-data",
        )
    return Planned(spec, shape, kind, channels_last, vocabulary.get(spec.name, VOCABULARY))


def _kind_of(spec: TensorSpec, shape: tuple[int | None, ...]) -> tuple[Kind, bool]:
    """Kind of an input by its type, rank and name, and whether an image has its channels last."""
    name, rank = spec.name.lower(), len(shape)
    if not is_float(spec.dtype) and spec.dtype.kind not in "iub":
        raise ComqError(
            f"no synthetic value is known for a {spec.dtype} input",
            where=f"input '{spec.name}'",
            fix="give data",
        )
    if spec.dtype.kind == "b":
        return "true", False
    if "mask" in name:
        return "ones", False
    if rank == 4 and (shape[1] in (1, 3, 4) or shape[3] in (1, 3, 4)):
        return "image", shape[1] not in (1, 3, 4)
    if spec.dtype.kind in "iu":
        return _integer_kind(name, rank), False
    last = shape[-1] if shape else 0
    waves = any(word in name for word in ("audio", "wave", "speech", "sound", "signal"))
    is_long = (
        last is not None and last >= WAVE_FROM and (rank == 2 or (rank == 3 and last > (shape[1] or last)))
    )
    return ("sound" if rank in (2, 3) and (waves or is_long) else "normal"), False


def _integer_kind(name: str, rank: int) -> Kind:
    if any(word in name for word in ("token_type", "segment", "type_ids")):
        return "zeros"
    if "position" in name:
        return "positions"
    return "ids" if "ids" in name or rank == 2 else "ones"


def _default_shape(spec: TensorSpec, kind: Kind, sequence: int) -> tuple[int, ...]:
    """Declared dimensions; defaults for a dynamic batch, image side or sequence, ComqError elsewhere."""
    tokens = len(spec.shape) == 2 and (spec.dtype.kind in "iub" or kind == "ones")
    shape = []
    for axis, dim in enumerate(spec.shape):
        if dim is None and axis == 0:
            dim = 1
        elif dim is None and kind == "image":
            dim = SIDE
        elif dim is None and tokens:
            dim = sequence
        elif dim is None:
            example = "x".join(
                "1" if d is None and i == 0 else str(d or "N") for i, d in enumerate(spec.shape)
            )
            raise ComqError(
                f"no data are given and its shape {_declared(spec)} is not known",
                where=f"input '{spec.name}'",
                fix=f"give data, or {SHAPES_FLAG} {spec.name}:{example} with numbers for N",
            )
        shape.append(dim)
    return tuple(shape)


def _declared(spec: TensorSpec) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in spec.shape) + "]"


def _values(item: Planned, rng: np.random.Generator) -> np.ndarray:
    shape = item.shape
    if item.kind == "image":
        pixels = np.stack([_image(shape[1:], item.channels_last, rng) for _ in range(shape[0])])
        if item.spec.dtype.kind in "iu":
            limits = np.iinfo(item.spec.dtype)
            return np.clip(np.rint(128 + 50 * pixels), limits.min, min(limits.max, 255))
        return pixels
    if item.kind == "sound":
        return _standard(_pink(shape, 1, rng))
    if item.kind == "ids":
        return rng.integers(0, max(item.ids, 1), shape)
    if item.kind == "positions":
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape) if shape else np.zeros(())
    if item.kind == "normal":
        return rng.standard_normal(shape)
    return np.zeros(shape) if item.kind == "zeros" else np.ones(shape)


def _image(shape: tuple[int, ...], channels_last: bool, rng: np.random.Generator) -> np.ndarray:
    """One image of about zero mean and unit variance, with a brightness and contrast of its own."""
    channels, height, width = (shape[2], *shape[:2]) if channels_last else shape
    leaves = _standard(_dead_leaves(channels, height, width, rng))
    shared = _standard(_pink((1, height, width), 2, rng))
    own = _standard(_pink((channels, height, width), 2, rng))
    image = _standard(leaves + 0.5 * shared + 0.2 * own)
    image = image * rng.uniform(0.7, 1.2) + rng.normal(0.0, 0.3)
    return np.moveaxis(image, 0, -1) if channels_last else image


def _pink(shape: tuple[int, ...], axes: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls as 1/f over the last `axes` axes; power 1/f for sound, 1/f^2 for images."""
    over = tuple(range(-axes, 0))
    spectrum = np.fft.rfftn(rng.standard_normal(shape), axes=over)
    grids = [np.fft.fftfreq(n) for n in shape[-axes:-1]] + [np.fft.rfftfreq(shape[-1])]
    squared = sum(grid**2 for grid in np.meshgrid(*grids, indexing="ij"))
    lowest = 1.0 / max(shape[-axes:])
    falloff = np.sqrt(np.maximum(squared, lowest**2)) ** (1.0 if axes == 2 else 0.5)
    return np.fft.irfftn(spectrum / falloff, s=shape[-axes:], axes=over)


def _dead_leaves(channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Discs dropped over each other, radius density r^-3, a grey of their own and a tint."""
    image = np.zeros((channels, height, width))
    side = max(height, width)
    low, high = max(1.0, side / 60), max(2.0, side / 3)
    radii = (low**-2 + rng.uniform(size=DISCS) * (high**-2 - low**-2)) ** -0.5
    radii[: DISCS // 10] = high
    for radius in radii:
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        colour = rng.normal() + 0.4 * rng.standard_normal((channels, 1))
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        box = image[:, top : int(y + radius) + 1, left : int(x + radius) + 1]
        rows = np.arange(top, top + box.shape[1])[:, None] - y
        cols = np.arange(left, left + box.shape[2])[None, :] - x
        box[:, rows**2 + cols**2 <= radius**2] = colour
    return image


def _standard(values: np.ndarray) -> np.ndarray:
    deviation = values.std()
    return (values - values.mean()) / (deviation if deviation > 0 else 1.0)
