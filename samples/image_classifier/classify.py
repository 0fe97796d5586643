"""lite0.onnx in 8 bits, weights alone and activations too: size, speed, and how many answers stay."""

import time
from pathlib import Path

import numpy as np
import onnxruntime
from skimage import data

from comq_onnx import quantize

rng = np.random.default_rng(0)


def crops(photographs: list[np.ndarray], count: int) -> list[dict[str, np.ndarray]]:
    """Random windows of photographs, as the network was trained on: RGB, (x - 127) / 128, channels first."""
    made = []
    for photograph in photographs * (count // len(photographs)):
        y, x = (rng.integers(size - 223) for size in photograph.shape[:2])
        window = (photograph[y : y + 224, x : x + 224].astype(np.float32) - 127) / 128
        made.append({"image": window.transpose(2, 0, 1)[None]})
    return made


calibration, test = crops([data.chelsea(), data.coffee()], 96), crops([data.astronaut(), data.rocket()], 200)
for name, activations in (("w8", "none"), ("w8a8", "int8")):
    how = {"weights": "int8", "activations": activations, "target": "ort"}
    print(repr(quantize("lite0.onnx", f"lite0_{name}.onnx", calibration, **how)))
files = [Path("lite0.onnx"), Path("lite0_w8.onnx"), Path("lite0_w8a8.onnx")]
runs = [onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run for file in files]
best, spent = np.zeros((2, len(test), len(runs)))
for i, feed in enumerate(test):
    for j, run in enumerate(runs):  # they take turns
        start = time.perf_counter()
        best[i, j], spent[i, j] = run(None, feed)[0].argmax(), time.perf_counter() - start
for file, ms, same in zip(files, 1e3 * np.median(spent, 0), (best == best[:, :1]).mean(0), strict=True):
    print(f"{file.name:15} {file.stat().st_size:11,} bytes  {ms:5.1f} ms  {100 * same:5.1f} % as in float")
