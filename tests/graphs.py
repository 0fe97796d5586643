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


def balanced(values: np.ndarray, axis: int = -2) -> np.ndarray:
    """`values` with neighbours along `axis`, which a product sums over, of opposite signs.

    So no pair of their 8-bit codes overflows on processors that add two products in 16 bits (rule ORT-N01).
    """
    even = np.arange(values.shape[axis]) % 2 == 0
    signs = np.where(even, 1, -1).astype(values.dtype)
    return np.abs(values) * np.moveaxis(signs.reshape((-1,) + (1,) * (values.ndim - 1)), 0, axis)
