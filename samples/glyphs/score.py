"""Prints the share of test.npz that each ONNX file gets right: python score.py glyphs.onnx other.onnx"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

BATCH = 250


def score(path: str, images: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 in percent; images float32 [n, 1, 32, 32] in [0, 1], labels int64 [n]."""
    options = onnxruntime.SessionOptions()
    # int4 products are computed with float activations, not with activations rounded to int8.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    best = [session.run(["logits"], {"image": part})[0].argmax(axis=1) for part in parts]
    return 100 * float(np.mean(np.concatenate(best) == labels))


def main() -> None:
    """One line for each file named on the command line; without any, the float model."""
    here = Path(__file__).parent
    test = np.load(here / "test.npz")
    for path in sys.argv[1:] or [str(here / "glyphs.onnx")]:
        print(f"{score(path, test['image'], test['label']):6.2f} %  {path}")


if __name__ == "__main__":
    main()
