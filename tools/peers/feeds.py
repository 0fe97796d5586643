"""Calibration feeds as an .npz that any environment reads: one array for each input of each batch.

Imported by the drivers, in their environments: numpy alone.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Feeds = list[dict[str, np.ndarray]]


def write_feeds(path: Path, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Arrays are named ``<batch>/<input>``."""
    np.savez(path, **{f"{i}/{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()})


def read_feeds(path: str | Path) -> Feeds:
    """The batches, in order."""
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            batch, _, name = key.partition("/")
            found.setdefault(int(batch), {})[name] = arrays[key]
    return [found[i] for i in sorted(found)]


def first(feeds: Feeds, samples: int) -> Feeds:
    """The first batches, until they hold so many samples: rows of their first input."""
    kept, held = [], 0
    for feed in feeds:
        if held >= samples:
            break
        kept.append(feed)
        held += len(next(iter(feed.values())))
    return kept


class Reader:
    """The feeds in the form of onnxruntime's CalibrationDataReader, which other tools take too."""

    def __init__(self, feeds: Feeds) -> None:
        self.feeds, self.next = feeds, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.next += 1
        return self.feeds[self.next - 1] if self.next <= len(self.feeds) else None

    def get_first(self) -> dict[str, np.ndarray]:
        return self.feeds[0]

    def rewind(self) -> None:
        self.next = 0

    def set_range(self, start: int, stop: int) -> None:
        self.feeds, self.next = self.feeds[start:stop], 0

    def __len__(self) -> int:
        return len(self.feeds)

    def __iter__(self):
        return iter(self.feeds)


Request = dict[str, Any]


def drive(options: Mapping[str, Callable[[Request, Feeds], None]]) -> None:
    """What every driver does: ``driver.py REQUEST.json`` runs the option it names on the model it names.

    The request holds ``model``, ``output``, ``data``, ``option`` and what the option takes. The seconds of
    the option alone go into ``answer.json``: the process spends others on imports.
    """
    request = json.loads(Path(sys.argv[1]).read_text())
    feeds = read_feeds(request["data"])
    started = time.monotonic()
    options[request["option"]](request, feeds)
    Path("answer.json").write_text(json.dumps({"seconds": round(time.monotonic() - started, 2)}))
