"""Every numeric test runs on every backend."""

import pytest

from comq_onnx.backends import numpy_


@pytest.fixture(params=[pytest.param(numpy_, id="numpy")])
def backend(request: pytest.FixtureRequest):
    return request.param
