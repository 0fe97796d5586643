"""A small vision transformer for CIFAR-10; its files and its images are not part of the project."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from zoo.model import Feed, Places, RealModel, Scores, Task, UnavailableError
from zoo.scores import disagreement, mean_kl, relative_error, softmax

CALIBRATION_IMAGES, BATCH = 128, 16
MEAN = np.array([0.4914, 0.4822, 0.4465], dtype=np.float32)
STD = np.array([0.2470, 0.2435, 0.2616], dtype=np.float32)


def find(places: Places, name: str) -> Path:
    """`name` in the folder, or one of the folders, that ``--vit`` names."""
    if places.vit is None:
        raise UnavailableError("no --vit PATH names a folder with vit_cifar10.onnx and cifar10_slice.npz")
    folders = [Path(part) for part in places.vit.split(os.pathsep)]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UnavailableError(f"no {name} in {places.vit}")


def feeds(images: np.ndarray) -> list[Feed]:
    """Batches of uint8 NHWC images as the network's normalised NCHW input."""
    scaled = (images.astype(np.float32) / 255.0 - MEAN) / STD
    made = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
    return [{"input": made[i : i + BATCH]} for i in range(0, len(made), BATCH)]


def task(places: Places) -> Task:
    with np.load(find(places, "cifar10_slice.npz"), allow_pickle=False) as data:
        calibration = data["calib_x"][:CALIBRATION_IMAGES]
        images, labels = data["test_x"][: places.limit], data["test_y"][: places.limit]

    def reduce(index: int, outputs: list[np.ndarray]) -> np.ndarray:
        return outputs[0]

    def score(reference: list[Any], quantized: list[Any]) -> Scores:
        a, b = np.concatenate(reference), np.concatenate(quantized)
        return {
            "top-1 %": 100.0 - disagreement(labels, b.argmax(axis=-1)),
            "top-1 off %": disagreement(a.argmax(axis=-1), b.argmax(axis=-1)),
            "KL": mean_kl(softmax(a), softmax(b)),
            "rel. error %": relative_error(a, b),
        }

    facts = {
        "calibration": f"{CALIBRATION_IMAGES} training images",
        "test": f"{len(images)} test images",
    }
    return Task(feeds(calibration), feeds(images), reduce, score, facts)


MODEL = RealModel(
    "vit", lambda places: find(places, "vit_cifar10.onnx"), task, "top-1 %", "KL", expected=(79.45, 2.0)
)
DYNAMO = RealModel(
    "vit-dynamo",
    lambda places: find(places, "vit_cifar10_dynamo_op21.onnx"),
    task,
    "top-1 %",
    "KL",
    expected=(79.45, 2.0),
)
