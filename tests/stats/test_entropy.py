"""The entropy method against its definition, written out value by value."""

import math

import numpy as np
import pytest

from comq_onnx.records import ActivationKind
from comq_onnx.stats.entropy import best_end, divergence, entropy_ends
from comq_onnx.stats.histogram import Histogram


def literal(counts: list[int], start: int, end: int, levels: int) -> float:
    """KL(P || Q), P with what is outside in its outermost bins, Q rounded to `levels` and spread again."""
    inside = counts[start:end]
    size = len(inside)
    p = list(inside)
    p[0] += sum(counts[:start])
    p[-1] += sum(counts[end:])
    level = [j * levels // size for j in range(size)]
    mass, filled = [0] * levels, [0] * levels
    for j in range(size):
        mass[level[j]] += inside[j]
        filled[level[j]] += inside[j] > 0
    q = [mass[level[j]] / filled[level[j]] if inside[j] else 1.0 for j in range(size)]
    total = 0.0
    for pj, qj in zip(p, q, strict=True):
        if pj:
            total += pj / sum(p) * math.log((pj / sum(p)) / (qj / sum(inside)))
    return total


@pytest.mark.parametrize("seed", range(5))
def test_divergence_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(40 * np.exp(-(np.linspace(-3, 3, 90) ** 2))) * (rng.random(90) < 0.9)
    for start, end, levels in (
        (0, 90, 16),
        (0, 45, 16),
        (20, 77, 13),
        (30, 46, 16),
        (5, 89, 32),
        (1, 31, 30),
    ):
        want = literal(counts.tolist(), start, end, levels)
        assert divergence(counts, start, end, levels) == pytest.approx(want)


def test_the_best_end_has_the_least_divergence():
    rng = np.random.default_rng(0)
    counts = np.bincount(np.minimum(rng.exponential(40, 5000), 599).astype(int), minlength=600)
    tried = {end: literal(counts.tolist(), 0, end, 128) for end in range(600, 127, -8)}
    assert best_end(counts, 128) == min(tried, key=tried.__getitem__)


@pytest.mark.parametrize("sign", [1, -1])
def test_ends_lie_within_the_values(sign):
    x = sign * np.random.default_rng(0).exponential(1, 200000)
    x[0] = sign * 100
    made = Histogram()
    made.add(x)
    low, high = sorted(sign * e for e in (0.0, 1.0))
    asymmetric = entropy_ends(made, ActivationKind(False, False))
    assert (asymmetric[0] < 0, asymmetric[1] > 0) == (low < 0, high > 0)
    assert 2 < abs(sum(asymmetric)) <= 100.1
    symmetric = entropy_ends(made, ActivationKind(True, True))
    assert symmetric[0] == -symmetric[1]
    assert 2 < symmetric[1] <= 100.1


def test_both_ends_are_chosen():
    x = np.random.default_rng(0).standard_normal(200000) + 0.5
    x[:2] = -50, 80
    made = Histogram()
    made.add(x)
    low, high = entropy_ends(made, ActivationKind(False, False))
    assert -50 < low < -2
    assert 2 < high < 80
