"""Tests that need a GPU; each is skipped, with the reason, where there is none."""

import pytest

from comq_onnx.backends.cupy_ import CudaBackend, open_device
from comq_onnx.backends.engine import Engine, open_engine
from comq_onnx.errors import ComqError


@pytest.fixture(scope="session")
def gpu() -> CudaBackend:
    try:
        return open_device(0)
    except ComqError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def gpu_engine(gpu: CudaBackend) -> Engine:
    """As ``--device cuda:0`` opens it."""
    return open_engine("cuda:0")
