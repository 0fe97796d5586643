"""What comes of comparing two models, as a record."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from comq_onnx.evaluate.closeness import Closeness
from comq_onnx.evaluate.parting import Parting
from comq_onnx.evaluate.report import finite


@dataclass(frozen=True)
class ModelFacts:
    """What a model is before it is run."""

    name: str
    bytes: int
    """On disk, with its external data"""
    opset: int
    ir_version: int
    nodes: int
    """In the main graph"""


@dataclass(frozen=True)
class Latency:
    """One batch in onnxruntime on the CPU; the models took turns."""

    a_seconds: float
    """The median"""
    b_seconds: float
    ratio: float
    """Median over turns of B's time in A's; above 1, B is slower"""
    ratio_low: float
    """A quarter of the turns lie below it"""
    ratio_high: float
    turns: int


@dataclass(frozen=True)
class Setting:
    """Both models at one setting of onnxruntime."""

    outputs: tuple[Closeness, ...]
    """Of B against A, in A's order"""
    scores: tuple[float, float] | None = None
    """Of A and B, by the user's metric"""
    latency: Latency | None = None


@dataclass(frozen=True)
class Comparison:
    """All that was found; `as_dict` is what ``--json`` prints."""

    a: ModelFacts
    b: ModelFacts
    data: str
    samples: int
    synthetic: bool
    """Whether inputs were made up"""
    metric: str
    """Name of the user's metric; empty for none"""
    settings: Mapping[str, Setting]
    """``exact``: fused kernels compute in float, as the files say; ``deployed``: onnxruntime's defaults,
    which round what low-bit kernels read to int8"""
    parting: Parting | None
    notes: tuple[str, ...]
    data_notes: tuple[str, ...] = ()
    """What was assumed or left out of the data, a sentence each"""

    @property
    def size_ratio(self) -> float:
        """B's bytes in A's."""
        return self.b.bytes / self.a.bytes

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinite SQNR becomes null, and ``identical`` tells equality."""
        return finite(asdict(self) | {"size_ratio": self.size_ratio})
