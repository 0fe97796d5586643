"""Makes a folder that a browser can open: the page, glyphs as float and quantized for it, and test images.

python make.py site && python -m http.server -d site
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx

from comq_onnx import quantize

HERE = Path(__file__).parent
GLYPHS = HERE.parent / "glyphs"
WIDTHS = ("int8", "int4", "int2")


def main(site: Path) -> None:
    site.mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "compare.mjs", "style.css"):
        shutil.copy(HERE / name, site)
    shutil.copy(GLYPHS / "glyphs.onnx", site / "float.onnx")
    for width in WIDTHS:
        data = GLYPHS / "calibration.npz"
        print(repr(quantize(site / "float.onnx", site / f"{width}.onnx", data, target="web", weights=width)))
    with np.load(GLYPHS / "test.npz") as test:
        (site / "images.f32").write_bytes(test["image"].astype("<f4").tobytes())
        labels = test["label"].tolist()
    (classes,) = (p.value for p in onnx.load(site / "float.onnx").metadata_props if p.key == "classes")
    files = ["float.onnx", *(f"{width}.onnx" for width in WIDTHS)]
    about = {"files": files, "input": "image", "shape": [1, 32, 32], "labels": labels, "classes": classes}
    (site / "about.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
