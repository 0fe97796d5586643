"""The one exception for what a user can put right. Everything else is a bug and keeps its traceback."""

from functools import partial


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
        self.what, self.where, self.fix = what, where, fix
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}; {fix}." if fix else f"{text}.")

    def __reduce__(self) -> tuple[partial["ComqError"], tuple[str]]:
        """It crosses from one process to another as it is."""
        return partial(type(self), where=self.where, fix=self.fix), (self.what,)


class NotPairedError(ComqError):
    """The float and the quantized network cannot be run side by side: no pairs of values come of it."""
