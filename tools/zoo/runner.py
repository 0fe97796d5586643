"""Run a model over feeds in onnxruntime with settings under which only the weights' error is seen."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from zoo.model import Feed


def open_file(model: onnx.ModelProto | Path, threads: int = 1, optimize: bool = True) -> ort.InferenceSession:
    """A session that folds every weight's DequantizeLinear to float32.

    The default would fuse int4 weights into a kernel that also rounds activations: what is measured here
    is the written weights, at the speed of the float model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_all(
    model: onnx.ModelProto | Path,
    feeds: Sequence[Feed],
    reduce: Callable[[int, list[np.ndarray]], Any],
    threads: int = 1,
) -> list[Any]:
    """What `reduce` makes of every feed's outputs, in order."""
    session = open_file(model, threads)
    return [
        reduce(index, [np.asarray(v) for v in session.run(None, feed)]) for index, feed in enumerate(feeds)
    ]
