"""The small figures that docstrings and messages quote, printed again.

    python tools/bench_claims.py

1. `stats.gram`: error of a covariance from float32 products, with and without the shift, and its time.
2. What onnxruntime's int8 activations add inside a fused low-bit product.
"""

import time

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from comq_onnx.stats.gram import CHUNK_ROWS, GramSum

ROWS, WIDTH = 8192, 512


def covariance_error(rows: np.ndarray, gram: np.ndarray, mean: np.ndarray) -> float:
    """Largest error of a covariance over the product of its deviations, against float64."""
    wide = rows.astype(np.float64)
    wanted = np.cov(wide, rowvar=False, bias=True)
    deviation = np.sqrt(np.diag(wanted))
    return float(np.abs((gram - np.outer(mean, mean) - wanted) / np.outer(deviation, deviation)).max())


def plain_sum(rows: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Gram by products of `dtype`, chunk by chunk, added in float64, nothing subtracted."""
    gram = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS].astype(dtype)
        gram += chunk.T @ chunk
    return rows.mean(axis=0, dtype=np.float64), gram / len(rows)


def gram_claims() -> None:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((ROWS, WIDTH)) @ rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
    for offset in (0.0, 3.0, 300.0):
        rows = (spread + offset).astype(np.float32)
        total, started = GramSum(1, WIDTH), time.process_time()
        total.add(rows[None])
        stats = total.stats()
        ours, started = time.process_time() - started, time.process_time()
        plain_sum(rows, np.float64)
        double = time.process_time() - started
        mean, gram = plain_sum(rows, np.float32)
        assert stats is not None
        shifted = covariance_error(rows, stats.gram[0], stats.mean[0])
        print(
            f"mean of {offset:g} deviations: shifted {shifted:.0e}, "
            f"not shifted {covariance_error(rows, gram, mean):.0e}, "
            f"float64 takes {double / ours:.1f} x the time"
        )


def fused_product(rows: int, block: int) -> float:
    """Relative L2 error that int8 activations add to one int4 product of ``[rows, 256]``."""
    rng = np.random.default_rng(rows + block)
    codes = rng.integers(-8, 8, (rows, 256)).astype(ml_dtypes.int4)
    scale = rng.uniform(0.01, 0.02, (rows // block, 256)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, k]) for n, k in (("x", rows), ("y", 256))
    ]
    weights = [numpy_helper.from_array(codes, "q"), numpy_helper.from_array(scale, "s")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = rng.standard_normal((64, rows)).astype(np.float32)
    default, exact = (run(model, x, level) for level in ("4", "1"))
    return float(np.linalg.norm(default - exact) / np.linalg.norm(exact))


def run(model: onnx.ModelProto, x: np.ndarray, level: str) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


if __name__ == "__main__":
    gram_claims()
    for k, size in ((384, 32), (384, 128), (1536, 128), (3072, 128)):
        print(f"int8 activations, K = {k}, block {size}: {fused_product(k, size):.2%} relative error")
