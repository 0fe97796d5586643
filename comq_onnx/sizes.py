"""Sizes of memory and files as people write them."""

import re


def gibibytes(text: str) -> float:
    """The GiB of a size such as ``2GB``, ``1.5GiB``, ``800MB`` or ``512B``; a bare number is in GiB.

    Raises
    ------
    ValueError
        `text` is no size; the message says how to write one.
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*)\s*([KMGT]?)(i?)(B?)\s*", text, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is not a size; write it as 2GB, 1.5GiB or 800MB")
    number, unit, binary, bytes_ = found.groups()
    power = "KMGT".index(unit.upper()) + 1 if unit else 0 if bytes_ and not binary else 3
    base = 1000.0 if unit and not binary else 1024.0
    return float(number) * base**power / 1024.0**3
