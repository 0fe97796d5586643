"""What a model's own metadata say about its pictures.

* Ultralytics' exporter writes ``stride``, ``names``, and since YOLOv8 ``task`` and ``imgsz``.
* PaddleOCR's recognisers carry their characters as ``character``.
* ONNX itself has ``Image.BitmapPixelFormat`` and ``Image.NominalPixelRange`` (docs/MetadataProps.md of onnx).
"""

import re
from collections.abc import Mapping

from comq_onnx.preprocess import Preprocess, parse
from comq_onnx.run.session import TensorSpec

FORMATS = {"gray8": "grey", "rgb8": "rgb", "bgr8": "bgr", "rgba8": "rgba", "bgra8": "bgra"}
RANGES = {"nominalrange_0_255": "raw", "normalized_0_1": "unit", "normalized_1_1": "vit"}
LINE_HEIGHTS = (32, 48)
"""Of the lines of text that PaddleOCR's recognisers read"""


def told_by(metadata: Mapping[str, str], shape: TensorSpec) -> tuple[str, Preprocess] | None:
    """Who says it, and what: see the module. None where nothing is said."""
    if {"stride", "names"} <= set(metadata):
        return "Ultralytics' metadata in the model", _ultralytics(metadata)
    if "character" in metadata and len(shape.shape) == 4 and shape.shape[2] in LINE_HEIGHTS:
        return "the characters in the model's metadata (PaddleOCR)", parse("ppocr-rec").says
    lowered = {key.lower(): value.lower() for key, value in metadata.items()}
    colour = FORMATS.get(lowered.get("image.bitmappixelformat", ""))
    scale = RANGES.get(lowered.get("image.nominalpixelrange", ""))
    if colour is None and scale is None:
        return None
    says = parse(scale).says if scale else Preprocess()
    return "the model's metadata Image.*", Preprocess(colour=colour).over(says)


def _ultralytics(metadata: Mapping[str, str]) -> Preprocess:
    """Detectors and their like are fed padded pictures, classifiers the middle of them."""
    preset = "unit,resize=short" if metadata.get("task") == "classify" else "yolo"
    sides = [int(side) for side in re.findall(r"\d{1,5}", metadata.get("imgsz", ""))]
    if len(sides) not in (1, 2) or not all(sides):
        return parse(preset).says
    return Preprocess(size=(sides[0], sides[-1])).over(parse(preset).says)
