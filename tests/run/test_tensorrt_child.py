"""How an engine is run, with stand-ins for the runtime and the device: the real ones need a GPU."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from comq_onnx.run import tensorrt_child
from comq_onnx.run.exchange import read_arrays, write_arrays

MODE = SimpleNamespace(INPUT="in", OUTPUT="out")


class Context:
    """Doubles its input, in float16."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.shape: tuple[int, ...] = ()
        self.address: dict[str, int] = {}
        self.calls = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= self.largest

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.address[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.calls += 1
        x, y = (ARRAYS[self.address[name]] for name in ("x", "y"))
        y[...] = 2 * x
        return True


class Engine:
    num_io_tensors = 2

    def __init__(self, largest: int) -> None:
        self.context = Context(largest)

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> str:
        return MODE.INPUT if name == "x" else MODE.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "float16"

    def create_execution_context(self) -> Context:
        return self.context


ARRAYS: dict[int, np.ndarray] = {}


class Held(np.ndarray):
    """An array of a device."""

    @property
    def data(self):
        ARRAYS[id(self)] = self
        return SimpleNamespace(ptr=id(self))


class Stream:
    ptr = 0

    def __init__(self, non_blocking: bool) -> None: ...

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None: ...

    def synchronize(self) -> None: ...


def cupy() -> SimpleNamespace:
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(
            CUDARuntimeError=OSError, getDeviceProperties=lambda _: {"name": b"a stand-in"}
        ),
        Device=lambda: SimpleNamespace(synchronize=lambda: None),
        Stream=Stream,
        Event=lambda: SimpleNamespace(record=lambda stream: None),
        get_elapsed_time=lambda before, after: 0.5,
    )
    return SimpleNamespace(
        cuda=cuda,
        asarray=lambda value: np.array(value).view(Held),
        empty=lambda shape, dtype: np.empty(shape, dtype).view(Held),
        asnumpy=lambda value: np.array(value),
    )


def ran(folder: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine | None, rows: int) -> dict:
    monkeypatch.setitem(sys.modules, "cupy", cupy())
    monkeypatch.setattr(tensorrt_child, "find_spec", lambda name: True)
    log = SimpleNamespace(errors=["of the build"])

    def load(plan: bytes) -> Engine | None:
        if engine is None:
            log.errors.append("Error Code 6: not for this GPU. In load at /a/b.cpp:1")
        return engine

    runtime = SimpleNamespace(deserialize_cuda_engine=load)
    trt = SimpleNamespace(Runtime=lambda log: runtime, TensorIOMode=MODE, nptype=np.dtype)
    batches = [{"x": np.full((n, 3), n, np.float32)} for n in (1, rows)]
    request = {"batches": write_arrays(folder, batches), "outputs": ["y"], "calls": 7}
    return json.loads(json.dumps(tensorrt_child.ran(trt, b"", log, folder, request)))


def test_each_batch_is_run_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(largest=8)
    found = ran(tmp_path, monkeypatch, engine, rows=2)
    first, second = read_arrays(tmp_path, found["batches"])
    np.testing.assert_array_equal(first["y"], np.full((1, 3), 2, np.float16))
    np.testing.assert_array_equal(second["y"], np.full((2, 3), 4, np.float16))
    assert (found["milliseconds"], found["device"]) == (0.5, "a stand-in")
    assert engine.context.calls == 2 * (1 + 7 + tensorrt_child.WARM_UP)


def test_an_engine_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ran(tmp_path, monkeypatch, None, rows=2)
    assert found == {"not_run": "the engine does not load on a stand-in: not for this GPU"}


def test_a_shape_it_was_not_built_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not_run" in ran(tmp_path, monkeypatch, Engine(largest=1), rows=2)


def test_reasons_are_one_line() -> None:
    told = "B::build: Error Code 4: API Usage Error (n: it is\n wrong. In f at /_src/a.cpp:8) [checkMacros: x"
    assert tensorrt_child.plain(told) == "API Usage Error (n: it is wrong.)"
    assert tensorrt_child.plain("Assertion failed: a == b: They differ.") == "They differ"
    assert tensorrt_child.plain("") == "it gives no reason"
