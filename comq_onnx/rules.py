"""A rule by hand: what becomes of the weights of the nodes that a pattern is found in."""

from dataclasses import dataclass

from comq_onnx.errors import ComqError

RULE, KEEP_FLOAT = "--rule", "--keep-float"
BLOCK_SIZES = (16, 32, 64, 128, 256)
BLOCKS = ("channel", "tensor", *map(str, BLOCK_SIZES))
FLOATS = ("float", "float16")
CODES = ("int8", "int6", "int5", "int4", "int3", "int2")


@dataclass(frozen=True)
class Rule:
    """What a user says of the layers whose names `pattern` is found in, with `re.search`."""

    pattern: str
    width: str
    """``float`` (as it is in the model), ``float16``, or one of `CODES`"""
    bits: int | None = None
    """Of a code; None where there are no codes"""
    block: str | None = None
    """``channel``, ``tensor`` or rows to a scale; None for the recipe's own"""
    flag: str = RULE
    """``--rule`` or ``--keep-float``"""


def parse_rule(text: str) -> Rule:
    """The rule that ``REGEX=WIDTH`` or ``REGEX=WIDTH:BLOCK`` says; split at the last ``=``.

    Raises
    ------
    ComqError
        It is not of this form, or there is no such width or block.
    """
    pattern, _, what = text.rpartition("=")
    width, colon, block = what.partition(":")
    if not pattern:
        raise ComqError(f"{text!r} is no rule", where=RULE, fix="write REGEX=WIDTH, such as 'head=int8'")
    if width not in (*FLOATS, *CODES):
        raise ComqError(
            f"{width!r} in {text!r} is no width", where=RULE, fix=f"use one of {', '.join((*FLOATS, *CODES))}"
        )
    if colon and width in FLOATS:
        raise ComqError(f"{width} in {text!r} has no blocks", where=RULE, fix=f"leave out {colon + block!r}")
    if colon and block not in BLOCKS:
        raise ComqError(
            f"{block!r} in {text!r} is no block size", where=RULE, fix=f"use one of {', '.join(BLOCKS)}"
        )
    return Rule(pattern, width, None if width in FLOATS else int(width.removeprefix("int")), block or None)


def keep_float(pattern: str) -> Rule:
    """The rule that ``--keep-float`` is."""
    return Rule(pattern, "float", flag=KEEP_FLOAT)
