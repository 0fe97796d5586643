"""Measures against their definitions, in plain NumPy and SciPy."""

import math

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from comq_onnx.evaluate.closeness import Classes, closeness, measure, read_classes, sqnr_db

RNG = np.random.default_rng(3)
X = [RNG.standard_normal((1, 5, 7)).astype(np.float32) for _ in range(4)]
Y = [x + RNG.standard_normal(x.shape).astype(np.float32) * (0.1 + 0.2 * i) for i, x in enumerate(X)]


def of(xs, ys, classes=None):
    return closeness(
        "out", xs[0].shape, [measure(x, y, classes) for x, y in zip(xs, ys, strict=True)], classes
    )


def decibel(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return 20 * np.log10(np.linalg.norm(x) / np.linalg.norm(x - y))


def test_sqnr_cosine_and_largest_error_by_their_definitions():
    found = of(X, Y)
    cosines = [
        np.corrcoef(np.r_[x.ravel(), -x.ravel()], np.r_[y.ravel(), -y.ravel()])[0, 1]
        for x, y in zip(X, Y, strict=True)
    ]
    assert found.sqnr_db == pytest.approx(decibel(X, Y))
    assert found.cosine == pytest.approx(np.mean(cosines))
    assert found.largest == pytest.approx(np.abs(np.subtract(X, Y, dtype=np.float64)).max())
    assert found.worst["sqnr_db"].sample == int(np.argmin([decibel(x, y) for x, y in zip(X, Y, strict=True)]))
    assert found.worst["sqnr_db"].value == pytest.approx(
        min(decibel(x, y) for x, y in zip(X, Y, strict=True))
    )
    assert found.worst["cosine"].value == pytest.approx(min(cosines))
    assert not found.identical
    assert (found.equal, found.top1, found.kl) == (None, None, None)


def test_equal_outputs_have_infinite_sqnr():
    found = of(X, X)
    assert found.identical
    assert (found.sqnr_db, found.largest) == (math.inf, 0.0)
    assert found.cosine == pytest.approx(1)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "log-probabilities"])
def test_top1_and_kl_by_their_definitions(kind):
    p, q = softmax(np.float64(X), axis=-1), softmax(np.float64(Y), axis=-1)
    forms = {"logits": (X, Y), "probabilities": (p, q), "log-probabilities": (np.log(p), np.log(q))}
    found = of(*forms[kind], Classes(2, kind))
    per_sample = rel_entr(p, q).sum(axis=-1).mean(axis=(1, 2))
    assert found.classes == kind
    assert found.kl == pytest.approx(per_sample.mean())
    assert found.worst["kl"].sample == int(np.argmax(per_sample))
    assert found.worst["kl"].value == pytest.approx(per_sample.max())
    assert found.top1 == pytest.approx(np.mean(p.argmax(-1) == q.argmax(-1)))


def test_classes_on_the_second_axis():
    p = softmax(RNG.standard_normal((1, 3, 4, 4)), axis=1)
    q = softmax(RNG.standard_normal((1, 3, 4, 4)), axis=1)
    assert read_classes(p, False) == Classes(1, "probabilities")
    found = of([p], [q], Classes(1, "probabilities"))
    assert found.kl == pytest.approx(rel_entr(p, q).sum(axis=1).mean())


def test_a_probability_of_nothing_costs_much_but_is_no_infinity():
    p, q = np.array([[0.0, 1.0]], np.float32), np.array([[1.0, 0.0]], np.float32)
    found = of([p], [q], Classes(1, "probabilities"))
    assert found.kl == pytest.approx(-np.log(np.finfo(np.float32).tiny))
    assert found.top1 == 0


@pytest.mark.parametrize(
    ("values", "linear", "expected"),
    [
        (softmax(X[0], axis=-1), False, "probabilities"),
        (np.log(softmax(X[0], axis=-1)), False, "log-probabilities"),
        (softmax(X[0], axis=-1).astype(np.float16), False, "probabilities"),
        (X[0], False, None),
        (X[0], True, "logits"),
        (np.ones((4, 1), np.float32), True, None),  # one class is none
        (np.ones(4, np.float32) / 4, True, None),  # nothing to tell samples from classes
        (np.ones((2, 3), np.int64), True, None),
        (np.full((1, 3), np.nan, np.float32), False, None),
    ],
)
def test_what_values_say_of_classes(values, linear, expected):
    found = read_classes(values, linear)
    assert (found.kind if found else None) == expected


def test_integers_are_counted():
    found = of([np.array([1, 2, 3, 4]), np.array([1, 2])], [np.array([1, 2, 3, 5]), np.array([0, 0])])
    assert found.equal == pytest.approx(3 / 6)
    assert (found.worst["equal"].sample, found.worst["equal"].value) == (1, 0.0)
    assert found.sqnr_db is None


def test_shapes_that_differ_are_said():
    found = of([np.ones((1, 3)), np.ones((1, 3))], [np.ones((1, 3)), np.ones((1, 4))])
    assert found.note == "its shape differs on 1 of 2 samples"
    assert (found.sqnr_db, found.identical) == (None, False)


def test_values_that_are_not_finite():
    x = np.array([1.0, np.nan, np.inf, 2.0])
    same = of([x], [x])
    assert same.identical
    assert same.sqnr_db == math.inf
    lost = of([x], [np.array([1.0, 1.0, np.inf, 2.0])])
    assert lost.sqnr_db == -math.inf
    assert lost.note == "NaN or infinity in one model alone on 1 of 1 samples"
    near = of([x], [np.array([1.0, np.nan, np.inf, 2.5])])
    assert near.sqnr_db == pytest.approx(10 * np.log10(5 / 0.25))


def test_zeros():
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    assert of([zero], [zero]).cosine == 1
    assert of([zero], [one]).cosine == 0
    assert of([zero], [one]).sqnr_db == -math.inf
    assert sqnr_db(0.0, 0.0) == math.inf
