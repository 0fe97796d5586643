"""What the allocator found out and chose, as records for the report."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    """One way to store a layer's weight."""

    name: str
    """``float``, ``float16``, or the grid as the table says it: ``int4 b32``"""
    width: str
    """As in a rule: ``int4:32``"""
    bytes: int
    """In the file: codes, scales and zero points"""
    loss: float = 0.0
    """``E||y - y'||^2 / E||Wᵀx||^2`` on samples that the fast solve has not seen; 0 for floats"""
    effect: float = 0.0
    """Distortion of the network's outputs that it makes, as far as prices tell"""


@dataclass(frozen=True)
class Price:
    """What distortion of one layer costs the network's outputs: a dual variable of its layer's constraint."""

    layer: str
    """Name of the node"""
    price: float
    """Output distortion for each unit of the layer's relative distortion"""
    uncertainty: float
    """Standard error of its logarithm, over samples"""
    candidates: tuple[Candidate, ...]
    """What the layer could be stored as"""
    chosen: str
    """Name of the candidate"""


@dataclass(frozen=True)
class Point:
    """A whole network that was measured with fast solutions, for the picture of size against fidelity."""

    kind: str
    """``uniform int4``, or ``allocated``"""
    bytes: int
    """Of the file"""
    distortion: float
    """Mean over positions of the outputs: KL where they are classes, squared relative error elsewhere"""


@dataclass(frozen=True)
class Allocation:
    """Which layer has which storage, what that is said to cost, and what more would buy."""

    measure: str
    """``KL divergence`` or ``relative error``"""
    budget: str
    """What was asked for, and what came of it, as a sentence"""
    file_bytes: int
    """Of the file as it will be written"""
    effect: float
    """Sum of the chosen candidates' effects"""
    uniform: tuple[str, int, float]
    """``int4``, its bytes and the sum of its effects: the same network with one width"""
    next_percent: str
    """What one more per cent of the budget would buy, as a sentence"""
    samples: int
    """Calibration batches that prices were measured on, not used in the fast solves"""
    seconds: float
    """That curves, prices and the choice took"""
    prices: tuple[Price, ...]
    """Of each layer that had a choice"""
    points: tuple[Point, ...] = ()
    """Whole networks that were measured"""
    notes: tuple[str, ...] = field(default=())
    """What the user must be told of the choice"""
    rules: tuple[str, ...] = field(default=())
    """The same choice as ``--rule`` flags"""
