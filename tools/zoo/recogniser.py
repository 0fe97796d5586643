"""PP-OCRv6 text recogniser (small), from the rapidocr wheel: strips of 48 pixels' height to characters."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from zoo import text
from zoo.model import Places, RealModel, Scores, Task, first_samples
from zoo.scores import character_error_rate, ctc_greedy, disagreement, mean_kl, relative_error
from zoo.wheels import file_in_wheel

HEIGHT, WIDTH = 48, 320
CALIBRATION_LINES, TEST_LINES = 96, 240
KL_LINES = 48
"""Lines whose whole probability tables are kept for the divergence: 40 frames x 18,710 classes each"""


def file(places: Places) -> Path:
    return file_in_wheel("rapidocr", "models/PP-OCRv6_rec_small.onnx")


def charset(path: Path) -> tuple[str, ...]:
    """Text of every class: the blank, the characters in the file's metadata, the space."""
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return ("", *metadata["character"].split("\n"), " ")


def strips(part: str, count: int) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    """Feeds of one rendered line each, and their texts."""
    rng = np.random.default_rng(0 if part == "calibration" else 1)
    pages = [text.render_line(rng, part, HEIGHT, WIDTH) for _ in range(count)]
    return [{"x": text.as_input(page.pixels)} for page in pages], [page.lines[0] for page in pages]


def task(places: Places) -> Task:
    classes = charset(file(places))
    test, truth = strips("test", TEST_LINES)
    test = first_samples(test, places.limit)

    def reduce(index: int, outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        table = outputs[0][0]
        return table.argmax(axis=-1), table if index < KL_LINES else None

    def score(reference: list[Any], quantized: list[Any]) -> Scores:
        tables = [(a[1], b[1]) for a, b in zip(reference, quantized, strict=True) if a[1] is not None]
        read = [ctc_greedy(best, classes) for best, _ in quantized]
        frames = [np.concatenate([best for best, _ in part]) for part in (reference, quantized)]
        return {
            "CER %": character_error_rate(read, truth[: len(read)]),
            "frames off %": disagreement(frames[0], frames[1]),
            "KL": float(np.mean([mean_kl(a, b) for a, b in tables])),
            "rel. error %": float(np.mean([relative_error(a, b) for a, b in tables])),
        }

    facts = {
        "calibration": f"{CALIBRATION_LINES} rendered lines",
        "test": f"{len(test)} rendered lines of other words",
        "fonts": ", ".join(text.FONTS),
    }
    return Task(strips("calibration", CALIBRATION_LINES)[0], test, reduce, score, facts)


MODEL = RealModel("ocr-rec", file, task, "CER %", "KL", higher_is_better=False, expected=(0.35, 0.65))
