"""Draws single characters in installed fonts as small grey images whose truth is known exactly."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CLASSES = (
    "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    "!#$%&()*+/<=>?@[]{}^~"
    "£§©±¶¿ÀÄÅÆÇÉÑÖØÜàäåæçéêëñöøüû"
    "ΓΔΘΛΞΠΣΦΨΩβγδεζηθλμξπρσφψω"
    "БДЖЙЦЧШЩЪЫЭЮЯжцчшщъыэюя"
)
"""Characters told apart by shape alone: of look-alikes (I l |, O 0, Latin A, Greek Alpha) one is kept."""

SIDE = 32
LEVELS = 255
"""Pixels are multiples of 1/255: noise in full precision would make the stored images far larger."""

SEEDS = {"network": 0, "training": 1, "calibration": 2, "test": 3}

_CANVAS = 64
_CAP_HEIGHT = 34.0
_LEFT_OUT = ("Hairline", "HairlineItalic", "Thin", "ThinItalic", "RZ", "RZI")
"""Strokes too thin to be seen at this size, and faces of small capitals."""
_NO_SUCH_CHARACTER = "\U0010ffff"


@dataclass(frozen=True)
class Family:
    """A typeface: where its files are below a fonts folder, and the Debian package that brings them."""

    package: str
    pattern: str


TRAINING_FAMILIES = (
    Family("fonts-dejavu-core fonts-dejavu-extra", "dejavu/DejaVuS*.ttf"),
    Family("fonts-liberation2", "liberation2/Liberation*.ttf"),
    Family("fonts-freefont-ttf", "freefont/Free*.ttf"),
    Family("fonts-lato", "lato/Lato-*.ttf"),
    Family("fonts-open-sans", "open-sans/OpenSans-*.ttf"),
    Family("fonts-crosextra-carlito", "crosextra/Carlito-*.ttf"),
    Family("fonts-crosextra-caladea", "crosextra/Caladea-*.ttf"),
    Family("fonts-hack", "hack/Hack-*.ttf"),
)
TEST_FAMILIES = (
    Family("fonts-linuxlibertine", "linux-libertine/LinLibertine_R*.otf"),
    Family("fonts-linuxlibertine", "linux-libertine/LinBiolinum_R*.otf"),
    Family("fonts-sil-charis", "charis/CharisSIL-*.ttf"),
    Family("fonts-firacode", "firacode/FiraCode-*.ttf"),
    Family("fonts-cantarell", "cantarell/Cantarell-*.otf"),
)


@dataclass(frozen=True)
class Face:
    """One font file at the size that gives every face the same cap height, and the classes it can draw."""

    name: str
    font: ImageFont.FreeTypeFont
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Distortion:
    """Largest random change of each kind; pixels count in the 32 x 32 image, greys in [0, 1]."""

    degrees: float = 10.0
    shear: float = 0.2
    scale: float = 0.08
    shift: float = 2.5
    blur: float = 0.9
    contrast: tuple[float, float] = (0.012, 0.05)
    """Least and largest difference between ink and paper; the paper may be anything from black to white."""
    gradient: float = 0.2
    """Change of the light from one side to the other."""
    noise: float = 0.08
    """Standard deviation, as a part of the contrast."""


@dataclass(frozen=True)
class Options:
    """What is trained, on how much, and for how long."""

    images: int = 40_000
    epochs: int = 12
    batch: int = 128
    learning_rate: float = 4e-3
    warm_up: float = 0.15
    """Part of the steps over which the learning rate rises."""
    calibration: int = 256
    test: int = 1500
    stem: int = 8
    stages: tuple[tuple[int, int], ...] = ((12, 2), (32, 6), (56, 8))
    """Channels and blocks of each stage; every stage after the first halves the image."""
    stem_kernel: int = 7
    kernel: int = 5
    heads: int = 4
    easy_contrast: tuple[float, float] = (0.5, 1.0)
    easing: float = 0.5
    """Part of the epochs over which the contrast falls from the easy range to that of `distortion`."""
    distortion: Distortion = field(default_factory=Distortion)


def load_faces(folders: tuple[Path, ...], families: tuple[Family, ...]) -> list[Face]:
    """Open every font of the families below the folders, in file-name order.

    Raises FileNotFoundError naming the package of a family that has no file there.
    """
    faces = []
    for family in families:
        files = sorted(file for folder in folders for file in folder.glob(family.pattern))
        if not files:
            raise FileNotFoundError(f"no font matches {family.pattern}: apt-get install {family.package}")
        faces += [_open_face(file) for file in files if not file.stem.endswith(_LEFT_OUT)]
    return faces


def _open_face(file: Path) -> Face:
    top, bottom = ImageFont.truetype(str(file), 200).getbbox("H", anchor="ls")[1::2]
    font = ImageFont.truetype(str(file), round(200 * _CAP_HEIGHT / (bottom - top)))
    missing = bytes(font.getmask(_NO_SUCH_CHARACTER))
    masks = (bytes(font.getmask(character)) for character in CLASSES)
    labels = tuple(k for k, mask in enumerate(masks) if any(mask) and mask != missing)
    return Face(file.stem, font, labels)


def draw_masks(
    faces: list[Face], count: int, seed: int, distortion: Distortion
) -> tuple[np.ndarray, np.ndarray]:
    """Ink coverage of `count` glyphs, uint8 [count, 32, 32], and their classes, int64 [count].

    Classes are as even as `count` allows; the face is drawn among those that have the character.
    """
    rng = np.random.default_rng(seed)
    able = [[face for face in faces if label in face.labels] for label in range(len(CLASSES))]
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    masks = np.empty((count, SIDE, SIDE), np.uint8)
    for row, label in enumerate(labels):
        face = able[label][rng.integers(len(able[label]))]
        masks[row] = _draw(face.font, CLASSES[label], rng, distortion)
    return masks, labels.astype(np.int64)


def _draw(
    font: ImageFont.FreeTypeFont, character: str, rng: np.random.Generator, limits: Distortion
) -> np.ndarray:
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    left, _, right, _ = font.getbbox(character, anchor="ls")
    origin = ((_CANVAS - left - right) / 2, (_CANVAS + _CAP_HEIGHT) / 2)
    ImageDraw.Draw(canvas).text(origin, character, fill=255, font=font, anchor="ls")
    angle = np.deg2rad(limits.degrees) * rng.uniform(-1, 1)
    stretch = np.diag(1 + limits.scale * rng.uniform(-1, 1, 2))
    slant = np.array([[1, limits.shear * rng.uniform(-1, 1)], [0, 1]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ slant @ stretch
    middle = np.full(2, _CANVAS / 2)
    offset = middle - matrix @ (middle + 2 * limits.shift * rng.uniform(-1, 1, 2))
    affine = (*matrix[0], offset[0], *matrix[1], offset[1])
    canvas = canvas.transform(canvas.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    canvas = canvas.filter(ImageFilter.GaussianBlur(2 * limits.blur * rng.uniform()))
    return np.asarray(canvas.reduce(_CANVAS // SIDE))


def expose(masks: np.ndarray, seed: int, limits: Distortion) -> np.ndarray:
    """Ink on paper with a gradient and noise: float32 [n, 1, 32, 32] in [0, 1], multiples of 1/255."""
    rng = np.random.default_rng(seed)
    one_each = (len(masks), 1, 1)
    contrast = np.exp(rng.uniform(*np.log(limits.contrast), one_each)).astype(np.float32)
    darker = rng.uniform(0, 1, one_each).astype(np.float32) * (1 - contrast)
    ink = masks.astype(np.float32) / 255
    ink = np.where(rng.random(one_each) < 0.5, ink, 1 - ink)
    slope = rng.uniform(-limits.gradient, limits.gradient, (2, *one_each)).astype(np.float32)
    ramp = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
    shade = slope[0] * ramp[None, :, None] + slope[1] * ramp[None, None, :]
    sigma = rng.uniform(0, limits.noise, one_each).astype(np.float32) * contrast
    noise = sigma * rng.standard_normal(masks.shape, dtype=np.float32)
    grey = darker + contrast * ink + shade
    low, high = grey.min((1, 2), keepdims=True), grey.max((1, 2), keepdims=True)
    grey += np.maximum(0, -low) - np.maximum(0, high - 1)
    return (np.rint(np.clip(grey + noise, 0, 1) * LEVELS) / np.float32(LEVELS))[:, None].astype(np.float32)
