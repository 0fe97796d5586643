"""What a model of the zoo is: a file, calibration data, test data, scores."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
Feed = dict[str, np.ndarray]
Scores = dict[str, float]


class UnavailableError(Exception):
    """A model or its data cannot be had here; the text says why. Its row is skipped and says so."""


@dataclass(frozen=True)
class Places:
    """Where files are looked for and kept, and how many test samples are used.

    `vit` is a folder with ``vit_cifar10.onnx`` and ``cifar10_slice.npz``, or several joined by
    ``os.pathsep``; `sts` a CSV of sentence pairs with a score; None where there is none. `limit` cuts the
    test samples.
    """

    cache: Path
    vit: str | None = None
    sts: Path | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Task:
    """The data of one model and the way its outputs are scored.

    `score` gets what `reduce` made of every test feed's outputs by the float model, then the same by the
    quantized one, and returns named scores. `reduce` keeps only what `score` needs: a recogniser's
    probabilities over 18 thousand characters do not fit in memory for every configuration.
    """

    calibration: list[Feed]
    test: list[Feed]
    reduce: Callable[[int, list[np.ndarray]], Any]
    """``(index of the feed, outputs in graph order) -> what score needs``"""
    score: Callable[[list[Any], list[Any]], Scores]
    facts: Mapping[str, str]
    """What a reader must know to repeat it: fonts, photographs, counts"""


@dataclass(frozen=True)
class RealModel:
    """One real trained model.

    `primary` names the score that tells solvers apart best, lower is better; `task` the score users know.
    `expected` holds the task score known for the float file and how far from it is still plausible.
    """

    name: str
    file: Callable[[Places], Path]
    task: Callable[[Places], Task]
    task_score: str
    primary: str
    higher_is_better: bool = True
    compare_task: bool = True
    """False where damage can raise the task score, so that it cannot rank solvers"""
    expected: tuple[float, float] | None = None


def first_samples(samples: Iterable[T], limit: int | None) -> list[T]:
    """The samples, or the first `limit` of them."""
    kept = list(samples)
    return kept if limit is None else kept[:limit]
