"""``sweep.cu`` compiled as C++ and run on the CPU: what the kernels compute is tested without a GPU.

`HostLauncher` stands in for CuPy's launcher. It checks every argument against the kernel's own signature, so
that a wrong order, type or memory layout is an error here and not garbage on a GPU.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comq_onnx.backends import cupy_
from comq_onnx.backends.cupy_ import CudaBackend, Extent

HERE = Path(__file__).parent
FLAGS = "-std=c++20 -O2 -shared -fPIC -ffp-contract=off -Wall -Wextra -Werror -Wno-unknown-pragmas"
ARENA = 1 << 18
"""Bytes of `arena` in the header."""
SCALARS = {"int": (np.int32, ctypes.c_int), "double": (np.float64, ctypes.c_double)}
ARRAYS = {"Index": np.int64, "double": np.float64, "bool": np.bool_}


@cache
def signatures() -> dict[str, list[tuple[str, str]]]:
    """Kernels of the source: their parameters as (type, name)."""
    found = {}
    for name, parameters in re.findall(
        r'extern "C" __global__ void __launch_bounds__\(\w+\)\s*(\w+)\(([^)]*)\)', cupy_.source()
    ):
        pairs = (re.fullmatch(r"\s*(.*?)(\w+)\s*", part) for part in parameters.split(","))
        found[name] = [(pair[1].replace(" ", ""), pair[2]) for pair in pairs if pair]
    return found


class HostLauncher:
    """Runs kernels on the CPU.

    Parameters
    ----------
    threads
        Of every block; 0 as many as the backend asks for.
    order
        In which the threads of a block run between two barriers: 0 forwards, 1 backwards, others random.
    shared_bytes
        Most dynamic shared memory of a block.
    text
        The kernels' source, where it is not the one that is shipped.
    """

    def __init__(
        self, threads: int = 1, order: int = 0, shared_bytes: int = ARENA, text: str | None = None
    ) -> None:
        self.shared_bytes = shared_bytes
        self._threads, self._order, self._text = threads, order, text or cupy_.source()

    def raising(self) -> nullcontext[None]:
        return nullcontext()

    def launch(self, kernel: str, dtype: np.dtype, extent: Extent, arguments: tuple[Any, ...]) -> None:
        assert extent.shared <= self.shared_bytes
        assert extent.threads.bit_count() == 1
        assert extent.threads <= cupy_.MOST_THREADS
        parameters = signatures()[kernel]
        assert len(parameters) == len(arguments), kernel
        passed = [
            _passed(kind, f"{kernel}: {name}", value, dtype)
            for (kind, name), value in zip(parameters, arguments, strict=True)
        ]
        numbers = (extent.blocks, self._threads or extent.threads, extent.shared, self._order)
        run = getattr(_library(dtype, self._text), f"run_{kernel}")
        failed = run(*(ctypes.c_int(number) for number in numbers), *passed)
        assert not failed, f"{kernel}: the threads of a block are at different barriers"


def cuda_on_cpu_backend(threads: int = 1, order: int = 0, shared_bytes: int = ARENA) -> CudaBackend:
    """The GPU's backend with its kernels run on the CPU; skips the test where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels with")
    return CudaBackend(np, HostLauncher(threads, order, shared_bytes))


def _passed(kind: str, name: str, value: Any, dtype: np.dtype) -> Any:
    """An argument as C takes it, after a check of its type."""
    if not kind.endswith("*"):
        expected, passed = SCALARS[kind]
        assert type(value) is expected, f"{name} is {type(value)}, not {expected}"
        return passed(value)
    target = kind.removeprefix("const").removesuffix("*")
    expected = dtype if target == "Real" else np.dtype(ARRAYS[target])
    assert isinstance(value, np.ndarray), f"{name} is no array"
    assert value.dtype == expected, f"{name} is {value.dtype}, not {expected}"
    assert value.flags.c_contiguous, f"{name} is not contiguous"
    assert kind.startswith("const") or value.flags.writeable, f"{name} is read-only"
    return ctypes.c_void_p(value.ctypes.data)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="comq-kernels-")


@cache
def _library(dtype: np.dtype, text: str) -> ctypes.CDLL:
    """The kernels for one floating type, and for each a function that runs all its thread blocks."""
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    program, library = folder / "kernels.cpp", folder / "kernels.so"
    lines = ['#include "cuda_on_cpu.h"', text]
    for name, parameters in signatures().items():
        listed = ", ".join(f"{kind.replace('const', 'const ')} {argument}" for kind, argument in parameters)
        passed = ", ".join(argument for _, argument in parameters)
        lines.append(f'extern "C" int run_{name}(int grid, int threads, int shared, int turn, {listed})')
        lines.append(f"{{ return run_grid(grid, threads, shared, turn, [&] {{ {name}({passed}); }}); }}")
    program.write_text("\n".join(lines), encoding="utf-8")
    command = ["g++", *FLAGS.split(), *cupy_.defines(dtype), f"-I{HERE}", str(program), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))
