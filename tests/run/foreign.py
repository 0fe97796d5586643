"""Files for other runtimes, with what NumPy says they compute."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from graphs import model, weight

TYPES = """
g (float[B, K] x, int64[B] ids, bool[B] keep, float16[B, 2] h)
  => (float[B, K] y, int64[B] sum, bool[B] off, uint8[B] byte, int32[B] narrow, float16[B, 2] half,
      float total) {
  y = Neg(x)
  sum = Add(ids, ids)
  off = Not(keep)
  byte = Cast<to = 2>(keep)
  narrow = Cast<to = 6>(keep)
  half = Add(h, h)
  total = ReduceSum<keepdims = 0>(x)
}"""
NET = """
g (float[B, 4, 8, 8] x) => (float[B, 16] y, float[B, 64] hidden) {
  c = Conv<kernel_shape = [3, 3]>(x, W)
  f = Flatten(c)
  hidden = MatMul(f, V)
  r = Relu(hidden)
  y = MatMul(r, U)
}"""


def save(proto: onnx.ModelProto, folder: Path, external: bool = False) -> Path:
    path = folder / "model.onnx"
    options = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    onnx.save(proto, path, **(options if external else {}))
    return path


def many_types(folder: Path) -> Path:
    return save(model(TYPES), folder)


def type_feeds(largest: int) -> dict[str, np.ndarray]:
    """Three samples, rows of five; `largest` is the greatest int64."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((3, 5)).astype(np.float32),
        "ids": np.array([1, -7, largest]),
        "keep": np.array([True, False, True]),
        "h": rng.standard_normal((3, 2)).astype(np.float16),
    }


def type_answers(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x, ids, keep, half = (feeds[name] for name in ("x", "ids", "keep", "h"))
    return {
        "y": -x,
        "sum": 2 * ids,
        "off": ~keep,
        "byte": keep.astype(np.uint8),
        "narrow": keep.astype(np.int32),
        "half": half + half,
        "total": np.asarray(x.sum()),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal names, types, shapes and values."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def net() -> onnx.ModelProto:
    return model(NET, 21, 10, W=weight(8, 4, 3, 3), V=weight(288, 64, seed=1), U=weight(64, 16, seed=2))


def net_batches(count: int, rows: int = 2) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.standard_normal((rows, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


def scales_along_rows() -> onnx.ModelProto:
    """Valid ONNX that OpenVINO gets wrong or dies of: int4 ``[K, N]`` with a scale for each row."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (64, 32)).astype(ml_dtypes.int4)
    text = "g (float[B, 64] x) => (float[B, 32] y) { d = DequantizeLinear<axis = 0>(W, S) y = MatMul(x, d) }"
    return model(text, 21, 10, W=codes, S=rng.uniform(0.01, 0.1, 64).astype(np.float32))
