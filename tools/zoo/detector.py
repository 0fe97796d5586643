"""PP-OCRv6 text detector (small), from the rapidocr wheel: a page to a map of text probabilities."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from zoo import text
from zoo.model import Feed, Places, RealModel, Scores, Task, first_samples
from zoo.scores import Box, disagreement, f1, match_boxes, mean_cosine_distance, relative_error
from zoo.wheels import file_in_wheel

HEIGHT, WIDTH = 480, 640
CALIBRATION_PAGES, TEST_PAGES = 24, 40
THRESHOLD, BOX_SCORE, GROWTH = 0.3, 0.5, 1.6
"""The wheel's settings: a pixel is text above the first, a box above the second, boxes grow by the third"""
SMALLEST_SIDE = 3


def file(places: Places) -> Path:
    return file_in_wheel("rapidocr", "models/PP-OCRv6_det_small.onnx")


def pages(part: str, count: int) -> tuple[list[Feed], list[tuple[Box, ...]]]:
    """Feeds of one rendered page each, and the boxes of their lines."""
    rng = np.random.default_rng(10 if part == "calibration" else 11)
    made = [text.render_page(rng, part, HEIGHT, WIDTH) for _ in range(count)]
    return [{"x": text.as_input(page.pixels)} for page in made], [page.boxes for page in made]


def boxes_of(probability: np.ndarray) -> list[Box]:
    """Upright boxes of the connected text regions of a map ``(height, width)``.

    The network is trained to mark a shrunken core of each line, so a box grows on all sides by
    ``area * GROWTH / perimeter``: the inverse of that shrinking.
    """
    labels = ndimage.label(probability > THRESHOLD)[0]  # pyright: ignore[reportIndexIssue]
    boxes = []
    regions: list[tuple[slice, slice]] = ndimage.find_objects(labels)  # pyright: ignore[reportAssignmentType]
    for rows, columns in regions:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < SMALLEST_SIDE or probability[rows, columns].mean() < BOX_SCORE:
            continue
        grow = height * width * GROWTH / (2 * (height + width))
        boxes.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return boxes


def task(places: Places) -> Task:
    test, truth = pages("test", TEST_PAGES)
    test = first_samples(test, places.limit)

    def reduce(index: int, outputs: list[np.ndarray]) -> np.ndarray:
        return outputs[0][0, 0]

    def score(reference: list[Any], quantized: list[Any]) -> Scores:
        a, b = np.stack(reference), np.stack(quantized)
        found = [boxes_of(probability) for probability in quantized]
        counts = [(match_boxes(f, t), len(f), len(t)) for f, t in zip(found, truth, strict=False)]
        flat = (a.reshape(len(a), -1), b.reshape(len(b), -1))
        return {
            "line F1 %": f1(*(sum(column) for column in zip(*counts, strict=True))),
            "mask off %": disagreement(a > THRESHOLD, b > THRESHOLD),
            "1-cos": mean_cosine_distance(*flat),
            "rel. error %": relative_error(*flat),
        }

    facts = {
        "calibration": f"{CALIBRATION_PAGES} rendered pages",
        "test": f"{len(test)} rendered pages of other words, {sum(map(len, truth[: len(test)]))} lines",
    }
    return Task(pages("calibration", CALIBRATION_PAGES)[0], test, reduce, score, facts)


MODEL = RealModel("ocr-det", file, task, "line F1 %", "rel. error %", expected=(92.7, 6.0))
