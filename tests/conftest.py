"""What all tests share: other runtimes run only where a test is marked for them; no test is a lottery."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from comq_onnx.run.node import VARIABLE

# The same examples on every machine and day; HYPOTHESIS_PROFILE=search looks for others.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
NODE_FOLDER = Path(__file__).parent / "node"


@pytest.fixture(autouse=True)
def onnxruntime_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for OpenVINO after each quantized model is time for tests that are not about it."""
    if not any(request.node.get_closest_marker(name) for name in ("openvino", "node", "tensorrt")):
        monkeypatch.setattr("comq_onnx.evaluate.verify.RUNTIMES", {})


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As at a terminal, for this process and its children: shells have background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def node_folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Node packages lie, named to the program as well; skips where they are not installed."""
    if not (NODE_FOLDER / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no Node packages: npm ci --ignore-scripts --prefix tests/node")
    monkeypatch.setenv(VARIABLE, str(NODE_FOLDER))
    return NODE_FOLDER
