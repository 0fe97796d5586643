"""Text with exact truth: words of the standard library's documentation, rendered with Debian's fonts."""

import ast
import re
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from zoo.model import UnavailableError
from zoo.scores import Box

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSans-BoldItalic.ttf",
    "LiberationSerif-Regular.ttf",
    "LiberationSerif-Italic.ttf",
    "LiberationMono-Regular.ttf",
)
DOCUMENTED = (
    "argparse", "ast", "calendar", "cmd", "configparser", "datetime", "difflib", "doctest",
    "fractions", "ftplib", "functools", "gettext", "inspect", "logging/__init__", "mailbox",
    "optparse", "pathlib", "pickletools", "random", "shelve", "smtplib", "socket", "statistics",
    "string", "subprocess", "tarfile", "textwrap", "threading", "tokenize", "turtle",
    "unittest/case", "zipfile",
)  # fmt: skip
"""Modules of the standard library, as paths under its folder"""


@dataclass(frozen=True)
class Page:
    """An image of text lines. `pixels` is ``(height, width, 3)`` uint8 BGR; `boxes` holds a box per line."""

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    lines: tuple[str, ...]


@cache
def font_files() -> tuple[Path, ...]:
    """The fonts of `FONTS` in their order; UnavailableError names the Debian packages if one is missing."""
    roots = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
    found = {path.name: path for root in roots for path in sorted(root.rglob("*.ttf"))}
    missing = [name for name in FONTS if name not in found]
    if missing:
        raise UnavailableError(
            f"font {missing[0]} is not installed; install Debian's fonts-dejavu-core and fonts-liberation2"
        )
    return tuple(found[name] for name in FONTS)


def source_of(name: str) -> Path:
    """The source of a module of the standard library; some became packages in later Pythons."""
    place = Path(sysconfig.get_paths()["stdlib"]) / name
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@cache
def words(part: str) -> tuple[str, ...]:
    """Words of documentation strings, ``part`` being ``"calibration"`` or ``"test"``: no word is in both."""
    found: set[str] = set()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for name in DOCUMENTED:
        # Parsed, not imported: a module may say things about its own deprecation.
        tree = ast.parse(source_of(name).read_bytes())
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            found.update(re.findall(r"[A-Za-z][a-z]{2,11}", text or ""))
    # A checksum, not hash(): the split must be the same in every process.
    wanted = 0 if part == "calibration" else 1
    return tuple(sorted(word for word in found if crc32(word.lower().encode()) % 2 == wanted))


def sentence(rng: np.random.Generator, part: str, count: int) -> str:
    """`count` words, one in eight of them a number instead, some with punctuation."""
    pieces = []
    for _ in range(count):
        word = str(rng.choice(words(part)))
        if rng.random() < 0.125:
            word = str(rng.integers(10, 100000))
        pieces.append(word + ("", "", "", "", ",", ".")[rng.integers(6)])
    return " ".join(pieces)


def render_line(rng: np.random.Generator, part: str, height: int, width: int) -> Page:
    """One line of text that fills a strip of `height` x `width` as far as its words allow."""
    font_path = font_files()[rng.integers(len(font_files()))]
    font = ImageFont.truetype(str(font_path), int(rng.integers(round(0.52 * height), round(0.68 * height))))
    text = sentence(rng, part, 6)
    while font.getlength(text) > width - 12 and " " in text:
        text = text.rsplit(" ", 1)[0]
    ink, paper = _colours(rng)
    image = Image.new("RGB", (width, height), paper)
    left, top, right, bottom = font.getbbox(text)
    x, y = 6 - left, (height - (bottom - top)) / 2 - top + rng.uniform(-1.5, 1.5)
    ImageDraw.Draw(image).text((x, y), text, font=font, fill=ink)
    box = (left + x, top + y, right + x, bottom + y)
    return Page(_worn(rng, image), (box,), (text,))


def render_page(rng: np.random.Generator, part: str, height: int, width: int) -> Page:
    """A page of lines in several fonts, sizes and colours; lines never overlap."""
    ink, paper = _colours(rng)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    boxes, lines = [], []
    y = float(rng.integers(8, 40))
    while True:
        size = int(rng.integers(14, 40))
        font = ImageFont.truetype(str(font_files()[rng.integers(len(font_files()))]), size)
        x = float(rng.integers(8, width // 3))
        text = sentence(rng, part, int(rng.integers(1, 6)))
        while x + font.getlength(text) > width - 8 and " " in text:
            text = text.rsplit(" ", 1)[0]
        left, top, right, bottom = font.getbbox(text)
        if y + bottom > height - 8:
            break
        if x + right <= width - 8:
            draw.text((x, y), text, font=font, fill=ink)
            boxes.append((x + left, y + top, x + right, y + bottom))
            lines.append(text)
        y += bottom + float(rng.integers(round(0.3 * size), round(1.6 * size)))
    return Page(_worn(rng, image), tuple(boxes), tuple(lines))


def _colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ink and paper; one in four is light on dark."""
    dark = tuple(int(v) for v in rng.integers(0, 90, 3))
    light = tuple(int(v) for v in rng.integers(170, 256, 3))
    return (light, dark) if rng.random() < 0.25 else (dark, light)


def _worn(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """Slight blur and sensor noise, as BGR."""
    blurred = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.9))))
    pixels = np.asarray(blurred, dtype=np.float64)[:, :, ::-1]
    noisy = pixels + rng.normal(0.0, rng.uniform(1.0, 8.0), pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def as_input(pixels: np.ndarray) -> np.ndarray:
    """``(height, width, 3)`` uint8 to ``(1, 3, height, width)`` float32 in -1..1."""
    scaled = (pixels.astype(np.float32) / 255.0 - 0.5) / 0.5
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
