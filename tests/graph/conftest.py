import numpy as np
import onnx
import onnxruntime as ort
import pytest


@pytest.fixture
def run():
    """Outputs of a model in onnxruntime without graph optimisation, in the order the model lists them."""

    def run(model: onnx.ModelProto | str, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        source = model if isinstance(model, str) else model.SerializeToString()
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)

    return run


@pytest.fixture
def same(run):
    """Assert that two models give the same outputs to 1e-5."""

    def same(first, second, feeds):
        one, other = run(first, feeds), run(second, feeds)
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-5)

    return same
