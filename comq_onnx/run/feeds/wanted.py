"""What is asked of a source of calibration data, and which of many samples are taken."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from comq_onnx.run.session import TensorSpec
from comq_onnx.run.sources import Record


@dataclass(frozen=True)
class Wanted:
    """The model's inputs, how many samples, and how files become arrays."""

    inputs: tuple[TensorSpec, ...]
    enough: Callable[[Record], bool]
    """Says of a record, asked once in turn, whether it was the last one needed"""
    count: int
    """Samples at most"""
    batch: int = 1
    """Samples that are run together"""
    preprocess: str = ""
    max_length: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The model's own, by key"""
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    """Number of valid ids of an integer input, where known"""


def spread(sizes: Sequence[int], count: int) -> list[tuple[int, int]]:
    """At most `count` of the members of groups, as (group, member): as even as can be, over and in groups.

    Small groups are taken whole, and the others share what is left. Groups take turns in the result, so that
    any stretch of it has something of each. The same answer for the same sizes.
    """
    taken, left = [0] * len(sizes), min(count, sum(sizes))
    while left:
        unfilled = [group for group, size in enumerate(sizes) if taken[group] < size]
        share = max(1, left // len(unfilled))
        if left < len(unfilled):
            unfilled = [unfilled[turn * len(unfilled) // left] for turn in range(left)]
        for group in unfilled:
            more = min(share, sizes[group] - taken[group], left)
            taken[group] += more
            left -= more
    turns = [
        ((turn + 0.5) / taken[group], group, (2 * turn + 1) * size // (2 * taken[group]))
        for group, size in enumerate(sizes)
        for turn in range(taken[group])
    ]
    return [(group, member) for _, group, member in sorted(turns)]


def by_folder(files: Sequence[Path]) -> list[list[Path]]:
    """Files grouped by the folder they lie in; groups and members are sorted."""
    groups: dict[Path, list[Path]] = {}
    for file in sorted(files):
        groups.setdefault(file.parent, []).append(file)
    return [groups[folder] for folder in sorted(groups)]


def files_below(folder: Path, suffixes: Sequence[str] | None = None) -> list[Path]:
    """Files of these suffixes, or of all, in a folder and those inside it, sorted; without hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if (suffixes is None or path.suffix.lower() in suffixes)
        and path.is_file()
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    )
