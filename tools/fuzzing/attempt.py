"""One fuzzed input: files in a folder of its own, and the command line that is given them."""

import random
from dataclasses import dataclass
from pathlib import Path

OUTPUT = "out.onnx"
CANARY = "canary"
"""Made in the working folder by any hostile payload that is run"""
CANARY_MODULE = "canary_module"
"""A module in the working folder that makes the canary when it is imported"""


@dataclass(frozen=True)
class Attempt:
    """What was made: in words, and the command line without the program's name.

    `may_run` is whether the command line itself names code of the user's.
    """

    label: str
    words: tuple[str, ...]
    may_run: bool = False


def rng_of(kind: str, seed: int, number: int) -> random.Random:
    """The source of chance of one input: the same on every machine."""
    return random.Random(f"{kind}:{seed}:{number}")


def lay_canary(folder: Path) -> None:
    """A module that nothing but a command line may import."""
    text = f"open({CANARY!r}, 'w').close()\n\n\ndef call(*args):\n    return {{}}\n"
    (folder / f"{CANARY_MODULE}.py").write_text(text)
