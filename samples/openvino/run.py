"""The glyph classifier in OpenVINO, float and quantized for it: top-1, distance from onnxruntime, latency."""

import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from comq_onnx import quantize

try:
    import openvino
except ImportError:
    sys.exit("OpenVINO is not installed: pip install openvino")
GLYPHS = Path(__file__).parents[1] / "glyphs"
test = np.load(GLYPHS / "test.npz")
images, labels = test["image"][:500], test["label"][:500]
files = {"float": GLYPHS / "glyphs.onnx"}
for name, activations in (("w8", "none"), ("w4", "none"), ("w8a8", "int8")):
    files[name] = Path(f"glyphs_{name}.onnx")
    width = name[:2].replace("w", "int")
    how = {"weights": width, "activations": activations, "target": "openvino"}
    print(repr(quantize(files["float"], files[name], GLYPHS / "calibration.npz", **how)))
exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}  # else bfloat16 and int8
compiled = {name: openvino.Core().compile_model(str(file), "CPU", exact) for name, file in files.items()}
logits, spent = {name: [] for name in files}, {name: [] for name in files}
for image in images:
    for name, model in compiled.items():  # they take turns
        start = time.perf_counter()
        logits[name].append(model({"image": image[None]})[0][0].copy())
        spent[name].append(time.perf_counter() - start)
for name, file in files.items():
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    there, here = np.array(logits[name]), session.run(None, {"image": images})[0]
    apart, right = np.linalg.norm(there - here) / np.linalg.norm(here), np.mean(there.argmax(1) == labels)
    size, ms = file.stat().st_size, 1e3 * np.median(spent[name])
    print(f"{name:5} {size:8,} bytes  {ms:.2f} ms  top-1 {100 * right:.1f} %  {apart:.1e} from onnxruntime")
