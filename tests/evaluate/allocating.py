"""Allocations made up for tests."""

from comq_onnx.allocate.allocation import Allocation, Candidate, Point, Price

POINTS = (
    Point("uniform int8", 8_000_000, 2e-4),
    Point("uniform int4", 4_200_000, 3e-2),
    Point("uniform int2", 2_100_000, 4.0),
    # Not in order of size, as a search over budgets may leave them.
    Point("allocated", 5_000_000, 4e-3),
    Point("allocated", 3_000_000, 8e-2),
    Point("allocated", 4_000_000, 1e-2),
)


def price(layer: str, chosen: str = "int4 b32", **wrong: float) -> Price:
    """A layer with three ways to be stored; `wrong` replaces its price or uncertainty."""
    stores = (
        Candidate("float", "float", 4096),
        Candidate("int8 channel", "int8:channel", 1088, 1.25e-5, 2.5e-6),
        Candidate("int4 b32", "int4:32", 640, 3.2e-3, 6.4e-4),
    )
    return Price(layer, wrong.get("price", 0.2), wrong.get("uncertainty", 0.07), stores, chosen)


def allocation(
    *prices: Price,
    points: tuple[Point, ...] = POINTS,
    effect: float = 0.009,
    uniform: tuple[str, int, float] = ("int4", 4_200_000, 0.036),
    notes: tuple[str, ...] = (),
) -> Allocation:
    """One that chose a file of 4 MB."""
    return Allocation(
        measure="KL divergence",
        budget="4.0 MB were asked for, 4,000,000 bytes are used.",
        file_bytes=4_000_000,
        effect=effect,
        uniform=uniform,
        next_percent="One more per cent would buy 5 per cent less effect.",
        samples=16,
        seconds=2.5,
        prices=prices,
        points=points,
        notes=notes,
        rules=("^a$=int4:32", "b<c&d=int8"),
    )
