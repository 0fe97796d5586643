"""What is said where there is no GPU to compute on."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from comq_onnx.backends.cupy_ import open_device
from comq_onnx.errors import ComqError


class DriverError(RuntimeError):
    pass


class CompileError(Exception):
    pass


def fake(count: int = 1, driver: str = "", compiles: str = "", algebra: str = "") -> ModuleType:
    """A CuPy that finds `count` GPUs, and fails with the messages that are given."""

    def counted() -> int:
        if driver:
            raise DriverError(driver)
        return count

    class Module:
        def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
            assert "descend" in code

        def compile(self) -> None:
            if compiles:
                raise CompileError(compiles)

    def cholesky(matrix: Any) -> Any:
        if algebra:
            raise ImportError(algebra)
        return matrix

    runtime = SimpleNamespace(
        getDeviceCount=counted,
        CUDARuntimeError=DriverError,
        cudaDevAttrMaxSharedMemoryPerBlockOptin=97,
        deviceGetAttribute=lambda attribute, device: 232448,
    )
    device = SimpleNamespace(use=lambda: None)
    compiler = SimpleNamespace(CompileException=CompileError)
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(runtime=runtime, Device=lambda index: device, compiler=compiler)
    cupy.RawModule = Module
    cupy.eye = lambda size: _Matrix()
    cupy.linalg = SimpleNamespace(cholesky=cholesky)
    return cupy


class _Matrix:
    def __matmul__(self, other: "_Matrix") -> "_Matrix":
        return self


def use(monkeypatch: pytest.MonkeyPatch, cupy: ModuleType | None) -> None:
    cupyx = ModuleType("cupyx")
    cupyx.errstate = lambda **_: None
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)


def test_a_gpu_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake(2)
    use(monkeypatch, cupy)
    assert open_device(1).xp is cupy


@pytest.mark.parametrize(
    ("index", "broken", "said"),
    [
        (0, {"driver": "cudaErrorNoDevice: none"}, r"^cuda:0: no NVIDIA GPU can be used \(cudaErrorNoDevice"),
        (3, {"count": 2}, r"^cuda:3: there is no such GPU, 2 found"),
        (
            0,
            {"compiles": "x.cu(3): error\nmore"},
            r"CuPy cannot compute on the GPU \(x.cu\(3\): error\)",
        ),
        (0, {"algebra": "libcusolver.so.12: cannot open."}, r"\(libcusolver.so.12: cannot open\); install"),
    ],
)
def test_one_sentence_says_why_not(
    monkeypatch: pytest.MonkeyPatch, index: int, broken: dict[str, Any], said: str
) -> None:
    use(monkeypatch, fake(**broken))
    with pytest.raises(ComqError, match=said) as caught:
        open_device(index)
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hidden:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "cupy":
                raise ModuleNotFoundError("No module named 'cupy'", name="cupy")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(ComqError, match="CuPy is not installed"):
        open_device()


@pytest.mark.parametrize("error", [ImportError("no libcuda\nand more"), ModuleNotFoundError("no cuda")])
def test_a_broken_cupy(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "cupy":
                raise error

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ComqError, match=r"does not load \(") as caught:
        open_device()
    assert "\n" not in str(caught.value)
