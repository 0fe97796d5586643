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
images, labels = (np.load(GLYPHS / "test.npz")[key][:500] for key in ("image", "label"))
files = {"float": GLYPHS / "glyphs.onnx"}
for name, width, activations in (("w8", "int8", "none"), ("w4", "int4", "none"), ("w8a8", "int8", "int8")):
    files[name] = Path(f"glyphs_{name}.onnx")
    how = {"weights": width, "activations": activations, "target": "openvino"}
    print(repr(quantize(files["float"], files[name], GLYPHS / "calibration.npz", **how)))
# Both runtimes would round activations to int8 beside weights of few bits, and OpenVINO to bfloat16.
exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "INFERENCE_NUM_THREADS": 1}
compiled = {name: openvino.Core().compile_model(str(file), "CPU", exact) for name, file in files.items()}
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
logits, spent = {name: [] for name in files}, {name: [] for name in files}
for image in images:
    for name, model in compiled.items():  # they take turns
        start = time.process_time()
        logits[name].append(model({"image": image[None]})[0][0].copy())
        spent[name].append(time.process_time() - start)
for name, file in files.items():
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    there, here = np.array(logits[name]), session.run(None, {"image": images})[0]
    apart, right = np.linalg.norm(there - here) / np.linalg.norm(here), np.mean(there.argmax(1) == labels)
    told = f"{1e3 * np.median(spent[name]):.2f} ms  top-1 {100 * right:.1f} %  {apart:.1e} from onnxruntime"
    print(f"{name:5} {file.stat().st_size:8,} bytes  {told}")
