"""Solutions that wait on disk until they are written: a model's codes may take more memory than there is."""

from collections.abc import Iterator, Mapping

from comq_onnx.errors import ComqError
from comq_onnx.graph.outside import ScratchFile
from comq_onnx.records import Solution
from comq_onnx.resume import Journal


class Shelf(Mapping[str, Solution]):
    """Solutions by layer name; each is read from its file when it is asked for, and not kept.

    Parameters
    ----------
    outside
        Where a journal is kept if there is none of the user's.
    journal
        That of ``--resume``.
    """

    def __init__(self, outside: ScratchFile, journal: Journal | None = None) -> None:
        self._outside = outside  # its folder is there as long as this is
        self.journal = journal or Journal(outside.folder / "layers", {"scratch": "of one run"})
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        """From now on the solution that `journal` holds of this layer is on the shelf."""
        self._names[name] = None

    def __getitem__(self, name: str) -> Solution:
        if name not in self._names:
            raise KeyError(name)
        found = self.journal.solution(name)
        if found is None:
            raise ComqError(
                "its solution was kept on disk and is not there any more, or damaged",
                where=name,
                fix="let the folder for temporary files, or that of --resume, be while a run lasts",
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
