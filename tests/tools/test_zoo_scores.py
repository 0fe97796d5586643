"""The scores against answers worked out by hand, by scipy or by brute force."""

import itertools

import numpy as np
import pytest
from scipy import special, stats
from zoo import scores


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("ab", "ba", 2),
    ],
)
def test_edit_distance_is_the_known_one(a, b, distance):
    assert scores.edit_distance(a, b) == distance
    assert scores.edit_distance(b, a) == distance


def test_edit_distance_obeys_the_triangle_inequality():
    texts = ["".join(t) for n in range(4) for t in itertools.product("ab", repeat=n)]
    table = {(a, b): scores.edit_distance(a, b) for a in texts for b in texts}
    assert all(table[a, c] <= table[a, b] + table[b, c] for a in texts for b in texts for c in texts)


def test_character_error_rate_counts_over_all_lines():
    assert scores.character_error_rate(["abcd", "xyz"], ["abcd", "xy"]) == pytest.approx(100 / 6)
    assert scores.character_error_rate(["", ""], ["ab", "cdef"]) == 100.0
    assert scores.character_error_rate(["aaaa"], ["b"]) == 400.0


def test_ctc_merges_repeats_before_it_drops_blanks():
    charset = ("", "a", "b", " ")
    assert scores.ctc_greedy(np.array([0, 1, 1, 0, 1, 2, 2, 3, 3, 2, 0]), charset) == "aab b"
    assert scores.ctc_greedy(np.array([1, 0, 0]), charset) == "a"
    assert scores.ctc_greedy(np.zeros(5, dtype=int), charset) == ""


def test_softmax_and_kl_equal_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 30, (7, 11)), rng.normal(0, 3, (7, 11))
    p, q = scores.softmax(a), scores.softmax(b)
    np.testing.assert_allclose(p, special.softmax(a, axis=-1), rtol=1e-12, atol=1e-300)
    assert scores.mean_kl(p, q) == pytest.approx(np.mean(special.rel_entr(p, q).sum(axis=-1)), rel=1e-6)
    assert scores.mean_kl(p, p) == 0.0


def test_kl_of_an_impossible_class_is_finite():
    assert 0 < scores.mean_kl(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])) < 100


def test_relative_error_is_the_energy_ratio_in_percent():
    reference = np.array([[3.0, 4.0]], dtype=np.float32)
    assert scores.relative_error(reference, reference * 1.1) == pytest.approx(1.0, rel=1e-5)
    assert scores.relative_error(reference, np.zeros_like(reference)) == 100.0


def test_cosine_distance_ignores_length():
    a = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert scores.mean_cosine_distance(a, a * 7) == pytest.approx(0.0, abs=1e-15)
    assert scores.mean_cosine_distance(a, a[:, ::-1]) == pytest.approx(1.0)


def test_disagreement_is_a_percentage_of_positions():
    assert scores.disagreement(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 25.0


def test_spearman_equals_scipys_with_ties():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, 60).astype(float), rng.normal(size=60)
    assert scores.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, rel=1e-12)


def test_iou_of_known_boxes():
    assert scores.iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1.0
    assert scores.iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert scores.iou((0, 0, 1, 1), (1, 1, 2, 2)) == 0.0


def test_a_box_is_matched_once():
    truth = [(0, 0, 10, 10), (20, 0, 30, 10)]
    found = [(0, 0, 10, 9), (0, 0, 10, 10), (21, 0, 30, 10)]
    assert scores.match_boxes(found, truth) == 2
    assert scores.match_boxes([], truth) == 0
    assert scores.f1(2, 3, 2) == pytest.approx(80.0)
    assert scores.f1(0, 0, 0) == 0.0
