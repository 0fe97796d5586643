"""Build a file's engine in TensorRT, in a process of its own: a file it cannot take may end the process.

TensorRT for RTX (package ``tensorrt_rtx``) parses ONNX and builds engines without a GPU, and so judges files
anywhere; what it builds runs on GPUs of compute capability 8.0, 8.6, 8.9, 12.0 and later. TensorRT itself
(package ``tensorrt``) needs a GPU for that, and is asked first where it is installed. Running an engine takes
a GPU and CuPy.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from comq_onnx.errors import ComqError
from comq_onnx.run.exchange import (
    TIMEOUT,
    Feeds,
    Outputs,
    converse,
    fitted,
    read_arrays,
    read_header,
    write_arrays,
)

CHILD = Path(__file__).with_name("tensorrt_child.py")
Ranges = Mapping[str, Sequence[Sequence[int]]]
"""Least, usual and largest shape of the inputs with dynamic axes, by name"""


@dataclass(frozen=True)
class Product:
    """A step of the engine that multiplies."""

    layer: str
    """The ONNX node, or several joined by ``+`` that it computes at once"""
    types: tuple[str, ...]
    """Element types of its two factors, as the engine names them: int8, half, float, ..."""


@dataclass(frozen=True)
class Engine:
    """What TensorRT makes of a file."""

    runtime: str
    """Name and version"""
    parsed: bool
    """Whether its parser takes the file"""
    error: str = ""
    """Its reason why there is no engine; empty where there is one"""
    bytes: int = 0
    """Of the serialised engine, the weights included"""
    seconds: float = 0.0
    """Parsing and building"""
    products: tuple[Product, ...] = ()
    """As the engine's text has them, less those in generated kernels; none where it has no such text"""
    constants: Mapping[str, int] = field(default_factory=dict)
    """Bytes of weights and scales in it by element type, from the same text"""
    outputs: Outputs | None = None
    """Of each batch; None where it was not run"""
    not_run: str = ""
    """Why it was not run, as a clause"""
    device: str = ""
    """The GPU it ran on"""
    milliseconds: float = 0.0
    """Median time of a call with the last batch, on the GPU"""

    @property
    def built(self) -> bool:
        return not self.error

    def computes_in(self) -> dict[str, int]:
        """How many products there are of each type of factors."""
        return dict(Counter(" x ".join(dict.fromkeys(p.types)) for p in self.products))


def tensorrt_missing() -> str:
    """Why no engine can be built, as a clause; empty where one may."""
    if find_spec("tensorrt_rtx") or find_spec("tensorrt"):
        return ""
    return "neither tensorrt_rtx nor tensorrt is installed (pip install 'comq-onnx[tensorrt]')"


def build_engine(
    path: Path,
    ranges: Ranges,
    batches: Sequence[Feeds] = (),
    calls: int = 0,
    save: Path | None = None,
    timeout: float = TIMEOUT,
) -> Engine:
    """Build the engine of the file at `path` for shapes in `ranges`, and run it where a GPU and CuPy are.

    Each of the `batches` is run once, and `calls` times more to tell the time of a call. The engine is
    written to `save`; `timeout` is in seconds. ComqError where no package is installed, none of them works
    here, or the feeds do not fit; what is wrong with the file is in the answer.
    """
    if missing := tensorrt_missing():
        raise ComqError(missing)
    header, where = read_header(path), path.name
    fed = [fitted(header, feeds, where) for feeds in batches]
    with tempfile.TemporaryDirectory(prefix="comq-") as name:
        folder = Path(name)
        request = {
            "model": str(path.resolve()),
            "outputs": header.outputs,
            "profile": ranges,
            "batches": write_arrays(folder, fed),
            "calls": calls,
            "save": str(save.resolve()) if save else "",
        }
        # -P: the script's own folder is not searched for modules.
        reply = converse([sys.executable, "-P", str(CHILD)], folder, request, timeout)
        found, problem = reply.answer, reply.problem
        if why := found.get("unusable"):
            raise ComqError(why)
        outputs = read_arrays(folder, found["batches"]) if "batches" in found else None
    error = found.get("error", "")
    if not error and "bytes" not in found:
        error = problem or "it gave no answer"
    return Engine(
        runtime=found.get("version", "TensorRT"),
        parsed=found.get("parsed", False),
        error=error,
        bytes=found.get("bytes", 0),
        seconds=found.get("seconds", 0.0),
        products=tuple(Product(layer, tuple(types)) for layer, *types in found.get("products", [])),
        constants=found.get("constants", {}),
        outputs=outputs,
        not_run="" if outputs is not None or error else found.get("not_run", problem),
        device=found.get("device", ""),
        milliseconds=found.get("milliseconds", 0.0),
    )
