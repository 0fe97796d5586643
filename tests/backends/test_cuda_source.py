"""What of the GPU backend can be checked without a GPU: the kernels compile, and CuPy has what is called."""

import ast
import ctypes
import importlib.metadata
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

import comq_onnx
from comq_onnx.backends import cupy_

ROOT = Path(comq_onnx.__file__).parent
KERNELS = ("rounding_error", "feedback", "descend", "kick", "sweep_ordered")
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
GENERIC = [*(ROOT / "solve").glob("*.py"), *(ROOT / "backends").glob("*.py"), ROOT / "stats/device_gram.py"]
"""Modules whose code runs on the arrays of `xp`."""


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    """NVIDIA's run-time compiler, which needs neither a GPU nor a driver."""
    try:
        listed = importlib.metadata.files("nvidia-cuda-nvrtc") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("no nvidia-cuda-nvrtc to compile the kernels with")
    found = [str(path.locate()) for path in listed if path.name.startswith("libnvrtc.so")]
    if not found:
        pytest.skip("nvidia-cuda-nvrtc has no library for this system")
    return ctypes.CDLL(found[0])


def compiled(nvrtc: ctypes.CDLL, dtype: type, architecture: str) -> tuple[int, str, bytes, bytes]:
    """Status, log, PTX and machine code of the source."""
    program = ctypes.c_void_p()
    options = (*cupy_.OPTIONS, *cupy_.defines(np.dtype(dtype)), f"--gpu-architecture={architecture}")
    text = cupy_.source().encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"sweep.cu", 0, None, None) == 0
    passed = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), passed)
    log = _text(nvrtc, program, "ProgramLog")
    if status:
        return status, log.decode(), b"", b""
    return status, log.decode(), _text(nvrtc, program, "PTX"), _text(nvrtc, program, "CUBIN")


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    assert getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    text = ctypes.create_string_buffer(size.value)
    assert getattr(nvrtc, f"nvrtcGet{what}")(program, text) == 0
    return text.raw.rstrip(b"\0")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_compile_without_warnings(nvrtc: ctypes.CDLL, dtype: type, architecture: str) -> None:
    status, log, ptx, machine_code = compiled(nvrtc, dtype, architecture)
    assert (status, log) == (0, "")
    assert f".target {architecture}".encode() in ptx
    for kernel in KERNELS:
        assert f".entry {kernel}(".encode() in ptx
        assert f".text.{kernel}".encode() in machine_code
    # No product is contracted with a sum, and nothing is flushed to zero: codes are rounded as on a CPU.
    assert b"fma." not in ptx
    assert b".ftz" not in ptx


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_float_is_added_atomically(nvrtc: ctypes.CDLL, dtype: type) -> None:
    """The order of such sums differs from run to run."""
    _, _, ptx, _ = compiled(nvrtc, dtype, "sm_90")
    lines = [line.strip() for line in ptx.decode().splitlines()]
    atomics = {line.split()[0] for line in lines if line.startswith(("atom", "red."))}
    assert all(name.endswith((".s32", ".b32")) for name in atomics), atomics


def names_used(path: Path) -> Iterator[str]:
    """Dotted names that are looked up in `xp`: ``linalg.eigh`` for ``posed.xp.linalg.eigh``."""

    def is_library(node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id == "xp") or (
            isinstance(node, ast.Attribute) and node.attr == "xp"
        )

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        if is_library(node.value):
            yield node.attr
        elif isinstance(node.value, ast.Attribute) and is_library(node.value.value):
            yield f"{node.value.attr}.{node.attr}"


def test_every_function_of_the_array_library_exists_in_cupy() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    used = {(name, path.name) for path in GENERIC if path.exists() for name in names_used(path)}
    assert ("linalg.eigh", "spectrum.py") in used
    missing = []
    for name, where in sorted(used):
        try:
            attrgetter(name)(cupy)
        except AttributeError:
            missing.append(f"{where}: xp.{name}")
    assert not missing


def test_only_the_backend_imports_cupy() -> None:
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("cupy", "cupyx") for name in names):
                found.add(path.relative_to(ROOT).as_posix())
    # The child is a program of its own, which imports nothing of ours.
    assert found == {"backends/cupy_.py", "run/tensorrt_child.py"}
