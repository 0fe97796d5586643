"""What runs a model, by name (``cpu``, ``cuda``, ``cuda:1``): onnxruntime's providers with pinned options."""

import contextlib
import io as text
import re

import onnxruntime

from comq_onnx.errors import ComqError

SILENT = 4
"""Severity below which the runtime says nothing"""
CUDA = "CUDAExecutionProvider"
CUDA_OPTIONS = {
    # A product of float32 keeps its 24 bits instead of TF32's 11.
    "use_tf32": "0",
    # Chosen by rule, not by a race of the candidates: the same bits on every run.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Grows by what is needed, not in powers of two: the rest of the memory is the solver's.
    "arena_extend_strategy": "kSameAsRequested",
}


def parsed(device: str) -> tuple[str, int]:
    """Kind and number of a device: ``("cuda", 1)`` for ``cuda:1``."""
    found = re.fullmatch(r"(cpu)|(cuda)(?::(\d+))?", device)
    if found is None:
        raise ComqError("there is no such device", where=device, fix="write cpu, cuda or cuda:1")
    return found[1] or found[2], int(found[3] or 0)


def providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """What computes, with pinned options; the CPU takes what a GPU has no kernel for."""
    kind, index = parsed(device)
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    return [(CUDA, {"device_id": str(index), **CUDA_OPTIONS}), "CPUExecutionProvider"]


def preloaded(device: str) -> str:
    """Load the libraries that come as packages; what could not be loaded, as the runtime says it."""
    if CUDA not in onnxruntime.get_available_providers():
        raise ComqError(
            "this onnxruntime is built for the CPU alone",
            where=device,
            fix="uninstall onnxruntime and install onnxruntime-gpu, or choose the device cpu",
        )
    onnxruntime.set_default_logger_severity(SILENT)
    # It reports on the standard output, which belongs to results.
    said = text.StringIO()
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    lines = said.getvalue().strip().splitlines()
    return lines[0].rstrip(". ") if lines else ""
