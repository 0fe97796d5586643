"""Sessions on a GPU: what can be checked without one."""

import numpy as np
import onnx
import onnxruntime
import pytest

from comq_onnx.errors import ComqError
from comq_onnx.run.device import CUDA, parsed, providers
from comq_onnx.run.session import DeviceTensor, SessionOptions, open_session

ADD = """<ir_version: 8, opset_import: ["": 17]>
adder (float[N, 3] x, float[3] b) => (float[N, 3] y, float[N, 3] z) { y = Add(x, b) z = Sub(x, b) }"""
FEEDS = {"x": np.ones((2, 3), np.float32), "b": np.arange(3, dtype=np.float32)}


def model() -> onnx.ModelProto:
    return onnx.parser.parse_model(ADD)


def test_a_runtime_built_for_the_cpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        ComqError, match=r"^cuda:0: this onnxruntime is built for the CPU alone; .*gpu"
    ) as caught:
        open_session(model(), SessionOptions(device="cuda:0"))
    assert "\n" not in str(caught.value)


class Fallen:
    """A session for which a GPU was asked, and that took the CPU."""

    def __init__(self, *_: object, providers: list, disabled_optimizers: list) -> None:
        assert providers[0][0] == CUDA

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.mark.parametrize("said", ["", "Failed to load libcublasLt.so.13: no such file\nPlease follow."])
def test_a_silent_fall_back_to_the_cpu_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(said))
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", lambda level: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(ComqError, match=r"^cuda:1: onnxruntime cannot use the GPU") as caught:
        open_session(model(), SessionOptions(device="cuda:1"))
    assert ("libcublasLt" in str(caught.value)) == bool(said)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_an_unknown_device_is_said(device: str) -> None:
    with pytest.raises(ComqError, match="no such device"):
        open_session(model(), SessionOptions(device=device))


def test_options_of_the_gpu_are_pinned() -> None:
    (name, options), rest = providers("cuda:2")
    assert (name, rest) == (CUDA, "CPUExecutionProvider")
    assert options["device_id"] == "2"
    assert options["use_tf32"] == "0"
    assert providers("cpu") == ["CPUExecutionProvider"]
    assert parsed("cuda") == ("cuda", 0)


def test_bound_outputs_are_those_of_a_plain_run() -> None:
    session = open_session(model())
    for names in (None, ["z"], []):
        plain, bound = session.run(FEEDS, names), session.run_on_device(FEEDS, names)
        assert list(plain) == list(bound)
        for name, value in bound.items():
            assert np.array_equal(value.value.numpy(), plain[name])
            assert not hasattr(value, "__cuda_array_interface__")


def test_bound_runs_that_fail_are_said() -> None:
    with pytest.raises(ComqError, match=r"'x' float32\[2, 4\]"):
        open_session(model()).run_on_device({"x": np.ones((2, 4), np.float32), "b": FEEDS["b"]})
    with pytest.raises(ComqError, match="no value is fed to 'b'"):
        open_session(model()).run_on_device({"x": FEEDS["x"]})


class OnGpu:
    """What a tensor in a GPU's memory says of itself."""

    def device_name(self) -> str:
        return "cuda"

    def data_type(self) -> str:
        return "tensor(float)"

    def data_ptr(self) -> int:
        return 4096

    def shape(self) -> list[int]:
        return [2, 3]


def test_a_tensor_on_a_gpu_is_described_for_cupy() -> None:
    described = DeviceTensor(OnGpu()).__cuda_array_interface__
    assert described == {"shape": (2, 3), "typestr": "<f4", "data": (4096, False), "version": 3}
