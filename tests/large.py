"""Models whose weights lie in a data file, for runs that leave them there."""

from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper

LITTLE = 2e-4
"""GiB of memory beside which even small weights are large"""


def saved_apart(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """The model in a file, its larger weights in another beside it."""
    path, copy = folder / name, onnx.ModelProto()
    copy.CopyFrom(proto)
    external_data_helper.convert_model_to_external_data(copy, location=f"{name}.data", size_threshold=256)
    onnx.save(copy, path)
    return path


def constants(path: Path) -> dict[str, np.ndarray]:
    """All initializers of a file, by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
