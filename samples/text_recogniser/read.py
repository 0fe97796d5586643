"""Reads rendered lines of text with PP-OCRv6's recogniser: float, rounded to 4 bits, and solved in 4 bits."""

import sys
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnx
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

from comq_onnx import quantize

if (spec := find_spec("rapidocr")) is None:
    sys.exit("the model is in a package: pip install --no-deps rapidocr==3.10.0")
MODEL = Path(str(spec.origin)).parent / "models" / "PP-OCRv6_rec_small.onnx"
WORDS = [word for word in " ".join(topics.values()).split() if word.isalpha() and 3 < len(word) < 9]
CLASSES = ["", *onnx.load(MODEL).metadata_props[0].value.split("\n"), " "]


def line(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], str]:
    """An image as the network takes it, (1, 3, 48, 320) in -1..1, and what is written on it."""
    text, font = " ".join(rng.choice(WORDS, 3)), ImageFont.load_default(int(rng.integers(20, 27)))
    image = Image.new("L", (320, 48), int(rng.integers(180, 256)))
    ImageDraw.Draw(image).text((6, 24), text, int(rng.integers(0, 90)), font, "lm")
    pixels = np.asarray(image) + rng.normal(0, 5, (48, 320))
    return {"x": np.float32(np.tile(pixels / 127.5 - 1, (1, 3, 1, 1)))}, text


lines = [line(np.random.default_rng(i)) for i in range(164)]
for name, solver in (("float", None), ("rounded", "rtn"), ("solved", "comq")):
    if (file := Path(f"read_{name}.onnx") if solver else MODEL) != MODEL:
        print(repr(quantize(MODEL, file, [x for x, _ in lines[:64]], solver=solver, first_last="int8")))
    run = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run
    read = ["".join(CLASSES[c] for c, _ in groupby(run(None, x)[0][0].argmax(-1))) for x, _ in lines[64:]]
    right = sum(a == b for a, (_, b) in zip(read, lines[64:], strict=True))
    print(f"{name:8} {file.stat().st_size:11,} bytes  {right} of 100 lines right, such as: {read[0]}")
