"""The loops of `protocol` on an NVIDIA GPU: the kernels of ``sweep.cu``, launched by CuPy.

`CudaBackend` decides what is launched: blocks, threads, shared memory and arguments. The launcher decides
where: `open_device` gives CuPy's, and the tests give one that runs the same source as C++ on the CPU.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from typing import Any, Protocol

import numpy as np

from comq_onnx.backends.numpy_ import GAIN, REPAIRS, STILL
from comq_onnx.backends.protocol import Array, Steps
from comq_onnx.errors import ComqError

SOURCE = "sweep.cu"
OPTIONS = ("--fmad=false", "--std=c++17")
ROWS_PER_BLOCK = 64
"""Rows between two matrix products in `CudaBackend.feedback`."""
MOST_THREADS = 512
"""`MAX_THREADS` of the source."""
WARP = 32
ROWS_PER_THREAD = 16
"""Rows of a column to a thread, where the column is long enough: more columns at a time, fewer barriers."""
BATCHED_ROWS = 256
"""Matrices up to this size are factored in one call for all groups, larger ones one by one."""
PLAIN_SHARED = 48 << 10
"""Bytes of dynamic shared memory that a kernel has without asking."""
FIXED_SHARED = 8 << 10
"""Bytes of shared memory set aside for what the kernels and the driver hold beside a column."""


@dataclass(frozen=True)
class Extent:
    """How a kernel is launched."""

    blocks: int
    threads: int
    """Of a block; a power of two"""
    shared: int = 0
    """Bytes of dynamic shared memory of a block"""


class Launcher(Protocol):
    """What runs the kernels of the source."""

    shared_bytes: int
    """Most dynamic shared memory of a thread block."""

    def launch(self, kernel: str, dtype: np.dtype, extent: Extent, arguments: tuple[Any, ...]) -> None:
        """Run `kernel` as compiled for `dtype`; arguments are arrays and NumPy scalars."""
        ...

    def raising(self) -> AbstractContextManager[object]:
        """While it is open, linear algebra raises `numpy.linalg.LinAlgError` instead of going on."""
        ...


def source() -> str:
    """The text of the kernels."""
    return files("comq_onnx.backends").joinpath(SOURCE).read_text(encoding="utf-8")


def defines(dtype: np.dtype) -> tuple[str, ...]:
    """Compiler options that choose the floating type."""
    return (f"-DReal={'float' if dtype == np.float32 else 'double'}",)


def threads_for(rows: int) -> int:
    """Threads of a block that works on a column of `rows` rows."""
    wanted = max(WARP, min(-(-rows // ROWS_PER_THREAD), MOST_THREADS))
    return 1 << (wanted - 1).bit_length()


class CudaBackend:
    """Fulfils `protocol.Backend` with the arrays of `xp`."""

    def __init__(self, xp: Any, launcher: Launcher) -> None:
        self.xp = xp
        self._launcher = launcher

    def cholesky(self, gram: Array) -> Array:
        """See `protocol.Backend.cholesky`."""
        with self._launcher.raising():
            if len(gram) == 1:
                return self.xp.linalg.cholesky(gram[0])[None]
            if gram.shape[1] <= BATCHED_ROWS:
                return self.xp.linalg.cholesky(gram)
            return self.xp.stack([self.xp.linalg.cholesky(matrix) for matrix in gram])

    def rounding_errors(
        self, weight: Array, importance: Array, steps: Steps, factors: Sequence[float]
    ) -> Array:
        """See `protocol.Backend.rounding_errors`."""
        tried = [replace(steps, scale=steps.scale * weight.dtype.type(factor)) for factor in factors]
        return self.xp.stack([self._rounding_error(weight, importance, one) for one in tried])

    def _rounding_error(self, weight: Array, importance: Array, steps: Steps) -> Array:
        dtype = weight.dtype
        out = self.xp.empty(steps.scale.shape, dtype)
        arguments = (self._given(weight, dtype), self._given(importance, dtype), *self._steps(steps, dtype))
        # One pass over the rows of a scale and nothing kept: fewer rows to a thread than in a sweep.
        extent = Extent(out.size, threads_for(4 * -(-weight.shape[2] // out.shape[2])))
        self._launch("rounding_error", dtype, extent, (*arguments, out))
        return out

    def feedback(self, coupling: Array, weight: Array, steps: Steps) -> Array:
        """See `protocol.Backend.feedback`."""
        rows, dtype = weight.shape[2], weight.dtype
        coupling, weight = self._given(coupling, dtype), self._given(weight, dtype)
        goal, error, p = weight.copy(), self.xp.empty_like(weight), self.xp.empty_like(weight)
        arrays = (coupling, weight, goal, error, p, *self._steps(steps, dtype))
        for start in range(0, rows, ROWS_PER_BLOCK):
            stop = min(start + ROWS_PER_BLOCK, rows)
            extent = Extent(p.shape[0] * p.shape[1], ROWS_PER_BLOCK, (stop - start) * dtype.itemsize)
            self._launch("feedback", dtype, extent, (*arrays, np.int32(start), np.int32(stop)))
            if stop < rows:
                goal[:, :, stop:] += error[:, :, start:stop] @ coupling[:, start:stop, stop:]
        return p

    def descend(
        self, gram: Array, pull: Array, residual: Array, p: Array, steps: Steps, sweeps: int, refit: bool
    ) -> Array:
        """See `protocol.Backend.descend`."""
        if refit and steps.scale.shape[2] != 1:
            raise ValueError("a refit inside the loop needs one scale to a column")
        if refit:
            _in_place(steps.scale, p.dtype)
        moved = self.xp.zeros(p.shape[:2], dtype=bool)
        more = (self._given(pull, p.dtype), np.int32(sweeps), np.int32(refit), np.float64(STILL), moved)
        self._on_columns("descend", (gram, residual, p, steps), more)
        return moved

    def kick(self, gram: Array, residual: Array, p: Array, steps: Steps, picks: np.ndarray) -> None:
        """See `protocol.Backend.kick`."""
        xp, (kicks, depth) = self.xp, picks.shape
        live = (xp.diagonal(gram, axis1=1, axis2=2) > 0).sum(axis=1).astype(np.int64)
        shared = 2 * p.shape[2] * p.dtype.itemsize
        scratch = xp.empty(1 if shared <= self._launcher.shared_bytes else 2 * p.size, p.dtype)
        chosen = (xp.asarray(picks, dtype=np.float64), np.int32(kicks), np.int32(depth), live)
        more = (*chosen, np.int32(REPAIRS), np.float64(GAIN), scratch)
        self._on_columns("kick", (gram, residual, p, steps), more, copies=2)

    def sweep_ordered(self, gram: Array, residual: Array, p: Array, steps: Steps, order: Array) -> None:
        """See `protocol.Backend.sweep_ordered`."""
        self._on_columns("sweep_ordered", (gram, residual, p, steps), (self._given(order, np.int64),))

    def _on_columns(
        self,
        kernel: str,
        state: tuple[Array, Array, Array, Steps],
        more: tuple[Any, ...],
        copies: int = 1,
    ) -> None:
        """Launch a kernel with a block to a column and, where they fit, `copies` of it in shared memory."""
        gram, residual, p, steps = state
        dtype, (groups, cols, rows) = p.dtype, p.shape
        _in_place(residual, dtype)
        _in_place(p, dtype)
        diagonal = self._given(self.xp.diagonal(gram, axis1=1, axis2=2), dtype)
        wanted = copies * rows * dtype.itemsize
        fits = wanted <= self._launcher.shared_bytes
        extent = Extent(groups * cols, threads_for(rows), wanted if fits else 0)
        arrays = (self._given(gram, dtype), diagonal, residual, p, *self._steps(steps, dtype))
        self._launch(kernel, dtype, extent, (*arrays, *more, np.int32(fits)))

    def _steps(self, steps: Steps, dtype: np.dtype) -> tuple[Any, ...]:
        """Scales, bounds, blocks and sizes, as every kernel takes them."""
        groups, cols, blocks = steps.scale.shape
        same = steps.lo.size == 1 and steps.hi.size == 1
        lo, hi = steps.lo, steps.hi
        if not same:
            lo, hi = (self.xp.broadcast_to(values, (groups, cols, blocks)) for values in (lo, hi))
        floats = (self._given(values, dtype) for values in (steps.scale, lo, hi))
        block_of = self._given(steps.block_of, np.int64)
        sizes = (block_of.shape[1], cols, blocks, same)
        return (*floats, block_of, *(np.int32(size) for size in sizes))

    def _given(self, values: Array, dtype: Any) -> Array:
        """`values` as a kernel reads them; copied only if strided, broadcast or of another type."""
        return self.xp.ascontiguousarray(values, dtype=dtype)

    def _launch(self, kernel: str, dtype: np.dtype, extent: Extent, arguments: tuple[Any, ...]) -> None:
        if extent.blocks:
            self._launcher.launch(kernel, dtype, extent, arguments)


def _in_place(values: Array, dtype: np.dtype) -> None:
    if not values.flags.c_contiguous or values.dtype != dtype:
        raise ValueError("an array that is changed in place must be contiguous and of the type of the steps")


class CupyLauncher:
    """Runs kernels on one GPU, on CuPy's current stream."""

    def __init__(self, cupy: Any, cupyx: Any, device: int) -> None:
        wanted = cupy.cuda.runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin
        self.shared_bytes = cupy.cuda.runtime.deviceGetAttribute(wanted, device) - FIXED_SHARED
        self.raising: Callable[[], AbstractContextManager[object]] = partial(cupyx.errstate, linalg="raise")
        self._modules = {
            dtype: cupy.RawModule(code=source(), options=(*OPTIONS, *defines(dtype)), backend="nvrtc")
            for dtype in (np.dtype(np.float32), np.dtype(np.float64))
        }

    def compile(self) -> None:
        """Compile all kernels now rather than at their first launch."""
        for module in self._modules.values():
            module.compile()

    def launch(self, kernel: str, dtype: np.dtype, extent: Extent, arguments: tuple[Any, ...]) -> None:
        """See `Launcher.launch`."""
        function = self._modules[dtype].get_function(kernel)
        if extent.shared > PLAIN_SHARED:
            function.max_dynamic_shared_size_bytes = extent.shared
        function((extent.blocks,), (extent.threads,), arguments, shared_mem=extent.shared)


def open_device(index: int = 0) -> CudaBackend:
    """The backend on GPU `index`, which becomes the current device of this thread.

    ComqError where CuPy is missing or broken, or where there is no such device.
    """
    where = f"cuda:{index}"
    cupy, cupyx = _imported(where)
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise ComqError(
            f"no NVIDIA GPU can be used ({_first_line(error)})",
            where=where,
            fix="install or update NVIDIA's driver, or choose the device cpu",
        ) from error
    if not 0 <= index < count:
        raise ComqError(
            f"there is no such GPU, {count} found",
            where=where,
            fix="choose a lower number, or the device cpu",
        )
    try:
        cupy.cuda.Device(index).use()
        launcher = CupyLauncher(cupy, cupyx, index)
        launcher.compile()
        # Loads the libraries of linear algebra, which are packages of their own.
        cupy.linalg.cholesky(cupy.eye(2) @ cupy.eye(2))
    except (ImportError, OSError, RuntimeError, cupy.cuda.compiler.CompileException) as error:
        raise ComqError(
            f"CuPy cannot compute on the GPU ({_first_line(error)})",
            where=where,
            fix='install NVIDIA\'s libraries beside it, pip install "cupy-cuda13x[ctk]"',
        ) from error
    return CudaBackend(cupy, launcher)


def _imported(where: str) -> tuple[Any, Any]:
    try:
        import cupy  # pyright: ignore[reportMissingImports]
        import cupyx  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            raise ComqError(
                "CuPy is not installed", where=where, fix="install the extra gpu, or choose the device cpu"
            ) from error
        raise _broken(error, where) from error
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise _broken(error, where) from error
    return cupy, cupyx


def _broken(error: Exception, where: str) -> ComqError:
    fix = "install cupy-cuda13x again, and no other CuPy beside it"
    return ComqError(f"CuPy is installed but does not load ({_first_line(error)})", where=where, fix=fix)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
