"""Every numeric test runs on every backend."""

import pytest
from backends.cuda_on_cpu import cuda_on_cpu_backend

from comq_onnx.backends import numba_, numpy_
from comq_onnx.backends.protocol import Backend

BACKENDS = {"numpy": lambda: numpy_, "numba": lambda: numba_, "cuda-on-cpu": cuda_on_cpu_backend}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()
