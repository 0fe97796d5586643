"""Tests that need a GPU; each is skipped, with the reason, where there is none."""

import pytest

from comq_onnx.backends.cupy_ import CudaBackend, open_device
from comq_onnx.backends.engine import Engine
from comq_onnx.errors import ComqError


@pytest.fixture(scope="session")
def gpu() -> CudaBackend:
    try:
        return open_device(0)
    except ComqError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def gpu_engine(gpu: CudaBackend) -> Engine:
    return Engine(gpu, 1)
