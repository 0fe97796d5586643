"""Real files that test the graph code more than the solver: feeds to compare outputs on, no score."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.model import Feed
from zoo.wheels import file_in_wheel

WINDOW = 576
"""Samples that silero-vad reads at once: 512 new ones and 64 it has seen"""


@dataclass(frozen=True)
class Guest:
    """A file inside an installed package and a few feeds for it."""

    name: str
    package: str
    inside: str
    feeds: Callable[[], list[Feed]]

    def file(self) -> Path:
        return file_in_wheel(self.package, self.inside)


def documents() -> list[Feed]:
    """Magika's view of four files: the first and last 1024 bytes, padded with 256."""
    feeds = []
    for source in (
        b"import os\nprint(os.name)\n" * 90,
        b"<html><p>x</p></html>" * 120,
        b"\x7fELF" * 700,
        b"a,b\n1,2\n" * 300,
    ):
        codes = np.full((1, 2048), 256, dtype=np.int32)
        head, tail = source[:1024], source[-1024:]
        codes[0, : len(head)] = list(head)
        codes[0, 2048 - len(tail) :] = list(tail)
        feeds.append({"bytes": codes})
    return feeds


def speech(extra: dict[str, np.ndarray]) -> Callable[[], list[Feed]]:
    """Windows of tones in noise for silero-vad, with `extra` inputs beside them."""

    def feeds() -> list[Feed]:
        rng = np.random.default_rng(0)
        time = np.arange(WINDOW) / 16000
        waves = [
            np.sin(2 * np.pi * hertz * time) * 0.3 + rng.normal(0, 0.02, WINDOW) for hertz in (120, 180, 260)
        ]
        return [{"input": wave[None].astype(np.float32), **extra} for wave in waves]

    return feeds


STATE = {"state": np.zeros((2, 1, 128), dtype=np.float32)}
RATE = {"sr": np.array(16000, dtype=np.int64)}
CELL = {name: np.zeros((1, 1, 128), dtype=np.float32) for name in ("h", "c")}

GUESTS: tuple[Guest, ...] = (
    Guest("magika", "magika", "models/standard_v3_3/model.onnx", documents),
    Guest("silero-vad", "silero_vad", "data/silero_vad.onnx", speech(STATE | RATE)),
    Guest("silero-vad-16k", "silero_vad", "data/silero_vad_16k_op15.onnx", speech(STATE | RATE)),
    Guest("silero-vad-sequence", "silero_vad", "data/silero_vad_16k_sequence.onnx", speech(CELL)),
    Guest("silero-vad-half", "silero_vad", "data/silero_vad_half.onnx", speech(STATE)),
    Guest("silero-vad-ifless", "silero_vad", "data/silero_vad_op18_ifless.onnx", speech(STATE | RATE)),
    Guest("silero-vad-openvino", "silero_vad", "data/silero_vad_openvino_16k.onnx", speech(STATE)),
    Guest(
        "ocr-cls",
        "rapidocr",
        "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        lambda: [{"x": np.random.default_rng(0).uniform(-1, 1, (1, 3, 48, 192)).astype(np.float32)}],
    ),
)
