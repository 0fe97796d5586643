"""Finds speech in noise with silero-vad: float, rounded to 3 bits, and solved in 3 bits."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

from comq_onnx import quantize

if (spec := find_spec("silero_vad")) is None or not shutil.which("espeak-ng"):
    raise SystemExit("model and voice: pip install --no-deps silero-vad && apt-get install espeak-ng")
MODEL = Path(str(spec.origin)).parent / "data" / "silero_vad_16k_sequence.onnx"
SENTENCES = [line.strip() for line in Path(__file__).with_name("sentences.txt").open()]
STEP, SEEN = 512, 64  # samples at 16 kHz that a window adds, and that it shares with the one before
STATE = {name: np.zeros((1, 1, 128), np.float32) for name in "hc"}


def spoken(text: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A sentence between silences, all under noise, as windows, and which of them hold speech."""
    told = subprocess.run(["espeak-ng", "--stdout", text], capture_output=True, check=True).stdout
    voice = np.frombuffer(told[44:], "<i2") / 32768  # behind the header, at 22,050 Hz
    voice = np.interp(np.arange(0, len(voice), 22050 / 16000), np.arange(len(voice)), voice)
    clean = np.pad(voice, (SEEN + 40 * STEP, 40 * STEP))
    noisy, loud = clean + rng.normal(0, clean.std() / 2, len(clean)), clean.std() / 10
    noisy, clean = (np.lib.stride_tricks.sliding_window_view(x, SEEN + STEP)[::STEP] for x in (noisy, clean))
    return {"input": np.float32(noisy)} | STATE, clean.std(axis=1) > loud


speech = [spoken(text, np.random.default_rng(i)) for i, text in enumerate(SENTENCES)]
for name, solver in (("float", None), ("rounded", "rtn"), ("solved", "comq")):
    if (file := Path(f"silero_{name}.onnx") if solver else MODEL) != MODEL:  # the LSTM stays float
        how = {"weights": "int3", "solver": solver, "target": "ort", "calibration_samples": 2000}
        print(repr(quantize(MODEL, file, [x for x, _ in speech[:12]], **how)))
    run = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run
    right = np.concatenate([(run(None, x)[0].ravel() > 0.5) == truth for x, truth in speech[12:]])
    print(f"{name:7} {file.stat().st_size:9,} bytes  {right.mean():.1%} of {len(right)} windows right")
