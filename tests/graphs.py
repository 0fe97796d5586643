"""Small graphs for tests, readable as ONNX text."""

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper


def model(text: str, opset: int = 17, ir_version: int = 8, **weights: np.ndarray) -> onnx.ModelProto:
    """Parse ``name (inputs) => (outputs) { nodes }`` and add `weights` as its initializers."""
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    made.ir_version = ir_version
    return made


def weight(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """A reproducible dense weight of unit output variance."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(dtype)
