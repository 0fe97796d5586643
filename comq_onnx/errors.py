"""The one exception for what a user can put right. Everything else is a bug and keeps its traceback."""

from functools import partial
from typing import Self

LONGEST = 400
"""Characters of a part of an error; what is longer is cut in the middle."""


def shown(text: str) -> str:
    """`text` on one line and without what a terminal would take as a command: names come out of files."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    half = LONGEST // 2
    return plain if len(plain) <= LONGEST else f"{plain[:half]} ... {plain[-half:]}"


class ComqError(Exception):
    """Bad input, said in one sentence: where it is, what is wrong, what to do.

    Parameters
    ----------
    what
        What is wrong, as a clause without a full stop: ``"the file does not exist"``.
    where
        The file, node, tensor or option it was seen in; empty where `what` says it.
    fix
        What the user can do about it, as a clause.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        what, where, fix = (shown(part) for part in (what, where, fix))
        self.what, self.where, self.fix = what, where, fix
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}; {fix}." if fix else f"{text}.")

    def __reduce__(self) -> tuple[partial["ComqError"], tuple[str]]:
        """It crosses from one process to another as it is."""
        return partial(type(self), where=self.where, fix=self.fix), (self.what,)


class NotPairedError(ComqError):
    """The float and the quantized network cannot be run side by side: no pairs of values come of it."""


class NotFiniteError(ComqError):
    """A network computes NaN or infinity: in `tensor`, on the calibration sample of this number."""

    def __init__(self, what: str, *, tensor: str, sample: int, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.tensor, self.sample = tensor, sample

    def located(self, network: str, node: str, op: str) -> Self:
        """The same with the node that it comes from, whose inputs are finite."""
        who = "float model" if network == "float" else "quantized network"
        return type(self)(
            f"the {who} computes NaN or infinity, first in node '{node}' ({op})",
            tensor=self.tensor,
            sample=self.sample,
            where=self.where,
            fix=self.fix if network == "float" else "keep the layers before that node float: --keep-float",
        )


class NotFinitePairError(NotFiniteError, NotPairedError):
    """The float or the quantized network does, run side by side."""


class MemoryExhaustedError(ComqError):
    """Memory ran out where the model was run; with less at a time it may do."""
