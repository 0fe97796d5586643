"""Scores as pure functions on arrays and strings: nothing here knows a model or a file."""

from collections.abc import Sequence

import numpy as np

Box = tuple[float, float, float, float]
"""``(left, top, right, bottom)`` in pixels"""


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def character_error_rate(read: Sequence[str], truth: Sequence[str]) -> float:
    """Edit distance summed over lines, in percent of the characters of the truth; may exceed 100."""
    errors = sum(edit_distance(a, b) for a, b in zip(read, truth, strict=True))
    return 100.0 * errors / max(1, sum(map(len, truth)))


def ctc_greedy(classes: np.ndarray, charset: Sequence[str], blank: int = 0) -> str:
    """Text of one line from its most likely class per frame: repeats merged, then blanks dropped.

    `classes` is ``(frames,)``; `charset` holds the text of every class, the blank's included.
    """
    kept = np.flatnonzero((classes != blank) & (np.diff(classes, prepend=-1) != 0))
    return "".join(charset[int(c)] for c in classes[kept])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(axis=-1, keepdims=True)


def mean_kl(float_p: np.ndarray, quantized_p: np.ndarray, floor: float = 1e-12) -> float:
    """Mean over rows of ``KL(float || quantized)`` in nats; both are probabilities over the last axis."""
    p = float_p.astype(np.float64)
    ratio = np.log(np.maximum(p, floor)) - np.log(np.maximum(quantized_p.astype(np.float64), floor))
    return float((p * ratio).sum(axis=-1).mean())


def disagreement(float_classes: np.ndarray, quantized_classes: np.ndarray) -> float:
    """Percent of positions where the two most likely classes differ."""
    return 100.0 * float(np.mean(float_classes != quantized_classes))


def relative_error(reference: np.ndarray, values: np.ndarray) -> float:
    """``||values - reference||^2 / ||reference||^2`` over all entries, in percent: 1 % is 20 dB of SQNR."""
    ref = reference.astype(np.float64).ravel()
    error = values.astype(np.float64).ravel() - ref
    return 100.0 * float(error @ error) / float(ref @ ref)


def mean_cosine_distance(reference: np.ndarray, values: np.ndarray) -> float:
    """Mean over rows of ``1 - cos`` between the last axes."""
    a, b = reference.astype(np.float64), values.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(np.mean(1.0 - (a * b).sum(axis=-1) / np.maximum(norms, 1e-300)))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two vectors; ties get their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def match_boxes(found: Sequence[Box], truth: Sequence[Box], threshold: float = 0.5) -> int:
    """Pairs of boxes with an IoU of at least `threshold`, each box used once, best pairs first."""
    pairs = sorted(
        ((iou(f, t), i, j) for i, f in enumerate(found) for j, t in enumerate(truth)),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    used_found: set[int] = set()
    used_truth: set[int] = set()
    for overlap, i, j in pairs:
        if overlap < threshold:
            break
        if i not in used_found and j not in used_truth:
            used_found.add(i)
            used_truth.add(j)
    return len(used_found)


def f1(matched: int, found: int, truth: int) -> float:
    """F1 in percent from counts of matched, found and true boxes."""
    return 200.0 * matched / max(1, found + truth)
