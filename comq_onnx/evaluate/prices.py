"""What the allocator chose and why, in words and in the cells of a table."""

import math

from comq_onnx.allocate.allocation import Allocation, Candidate, Price

COLUMNS = ("layer", "price", "uncertainty", "chosen", "bytes", "loss", "effect")
CANDIDATES = ("layer", "candidate", "bytes", "loss", "effect")


def told(allocation: Allocation) -> list[str]:
    """What came of the budget, what one width would make of it, and what more would buy, a sentence each."""
    return list(filter(None, (allocation.budget, _uniform(allocation), allocation.next_percent)))


def source(allocation: Allocation) -> str:
    """What prices were measured on."""
    return (
        f"Prices come from {allocation.samples:,} calibration batches that the fast solutions of the layers "
        f"did not see. Curves, prices and choice took {allocation.seconds:.1f} s."
    )


def price_cells(price: Price) -> tuple[str, ...]:
    """A row under `COLUMNS`: the price, and what the chosen candidate comes to."""
    chosen = [_figures(one) for one in price.candidates if one.name == price.chosen]
    blank = ("",) * 3
    return price.layer, number(price.price), number(price.uncertainty), price.chosen, *(chosen or [blank])[0]


def candidate_cells(price: Price) -> list[tuple[str, ...]]:
    """Rows under `CANDIDATES`, one for each way to store the layer."""
    return [(price.layer, one.name, *_figures(one)) for one in price.candidates]


def number(value: float) -> str:
    """Three digits; a dash for what is not finite."""
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _figures(one: Candidate) -> tuple[str, str, str]:
    return f"{one.bytes:,}", number(one.loss), number(one.effect)


def _uniform(allocation: Allocation) -> str:
    """The ratio only where both effects can be compared."""
    name, size, effect = allocation.uniform
    if not name:
        return ""
    ratio = allocation.effect / effect if effect > 0 else math.nan
    share = f" ({ratio:.2g} times as much)" if math.isfinite(ratio) else ""
    return (
        f"uniform {name} would take {size:,} bytes with an effect of {number(effect)} "
        f"(relative error of outputs); as allocated the file takes {allocation.file_bytes:,} bytes "
        f"with one of {number(allocation.effect)}{share}."
    )
