"""The glyph classifier quantized for TensorRT: its score in onnxruntime, its rules, how to build it."""

from pathlib import Path

import numpy as np
import onnxruntime

from comq_onnx import check, quantize

GLYPHS = Path(__file__).parents[1] / "glyphs"
test = np.load(GLYPHS / "test.npz")
how = {"data": GLYPHS / "calibration.npz", "target": "tensorrt", "weights": "int8"}
report = quantize(GLYPHS / "glyphs.onnx", "glyphs_trt.onnx", **how)
print(repr(report))
for file in (GLYPHS / "glyphs.onnx", Path("glyphs_trt.onnx")):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    right = np.mean(session.run(None, {"image": test["image"]})[0].argmax(axis=1) == test["label"])
    print(f"{file.name:16} {file.stat().st_size:8,} bytes  top-1 {100 * right:.1f} % in onnxruntime")
broken = [finding for finding in check("glyphs_trt.onnx", "tensorrt") if finding.severity == "error"]
print(f"{len(broken)} rules of TensorRT broken")
for note in report.notes:
    if "trtexec" in note:
        print(note)
