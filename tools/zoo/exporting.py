"""Export of torch modules to ONNX files."""

import os
import warnings
from pathlib import Path
from typing import Any


def export_legacy(
    network: Any, inputs: dict[str, Any], output: str, path: Path, dynamic: tuple[str, ...], opset: int = 17
) -> None:
    """Trace `network` with torch's old exporter; the first ``len(dynamic)`` axes of inputs are dynamic."""
    import torch

    axes = dict(enumerate(dynamic))
    beside = path.with_suffix(".tmp")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the old exporter says that it is old
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            str(beside),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={**dict.fromkeys(inputs, axes), output: {0: dynamic[0]}},
            opset_version=opset,
            dynamo=False,
        )
    os.replace(beside, path)
