"""Finds the other half of paragraphs by their sentence vectors: minilm.onnx in float, 8, 4 and 3 bits."""

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnxruntime
from export import FOLDER, INPUTS
from transformers import AutoTokenizer

from comq_onnx import quantize

TEXTS = [" ".join(part.split()) for topic in topics.values() for part in topic.split("\n\n")]
TEXTS = [text for text in dict.fromkeys(TEXTS) if 200 < len(text) < 500]
tokens = AutoTokenizer.from_pretrained(FOLDER)


def feed(text: str) -> dict[str, np.ndarray]:
    found = tokens(text, return_tensors="np")
    return {name: found[name].astype(np.int64) for name in INPUTS}


feeds = [feed(half) for t in TEXTS for half in (t[: len(t) // 2], t[len(t) // 2 :])]
calibration, test = feeds[:96], feeds[96:596]
vectors: dict[str, np.ndarray] = {}
for name in ("float", "int8", "int4", "int3"):
    file = Path("minilm.onnx" if name == "float" else f"minilm_{name}.onnx")
    if name != "float":
        how = {"weights": name, "quantize_embeddings": True, "effort": "fast"}
        print(repr(quantize("minilm.onnx", file, calibration, **how)))
    run = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run
    vectors[name] = made = np.concatenate([run(None, x)[0] for x in test])
    found = np.mean((made[::2] @ made[1::2].T).argmax(axis=1) == np.arange(len(made) // 2))
    cosine = np.mean(np.sum(made * vectors["float"], axis=1))
    size = f"{file.stat().st_size:11,} bytes"
    print(f"{name:6} {size}  {100 * found:.1f} % of halves found, mean cosine to float {cosine:.4f}")
