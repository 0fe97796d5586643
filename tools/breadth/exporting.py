"""torch modules to ONNX messages, by both of torch's exporters."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx

from breadth.family import Inputs, Network


def export(network: Network, exporter: str, opset: int) -> onnx.ModelProto:
    """The network as a message; `exporter` is ``script`` or ``dynamo``. Raises what the exporter does."""
    import torch

    inputs = tuple(torch.from_numpy(np.array(value)) for value in network.sample(0).values())
    module = network.module
    if network.half:
        kind = getattr(torch, network.half)
        module = module.to(kind)
        inputs = tuple(value.to(kind) if value.is_floating_point() else value for value in inputs)
    if network.script:
        module = torch.jit.script(module)
    with tempfile.TemporaryDirectory(prefix="comq-") as folder, _quiet(), torch.no_grad():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            inputs,
            str(path),
            input_names=list(network.sample(0)),
            opset_version=opset,
            dynamo=exporter == "dynamo",
            **({"external_data": False, "verbose": False} if exporter == "dynamo" else {}),
        )
        return onnx.load(path)


def fed(network: Network, seeds: range) -> list[Inputs]:
    """Samples by number."""
    return [network.sample(seed) for seed in seeds]


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters say much on every channel there is."""
    level, out = logging.root.manager.disable, os.dup(1)
    sys.stdout.flush()
    logging.disable(logging.CRITICAL)
    try:
        with open(os.devnull, "w") as nowhere, warnings.catch_warnings(), redirect_stdout(nowhere):
            os.dup2(nowhere.fileno(), 1)  # compiled code writes there too
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(out, 1)
        os.close(out)
        logging.disable(level)
