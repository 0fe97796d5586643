"""The words for what was measured, and one kernel of this processor."""

import check_saturation
import numpy as np


def test_each_pair_of_rows_has_a_column_of_its_own():
    codes = check_saturation.pair_codes(-7)
    assert codes.shape == (16, 120)
    assert len({tuple(np.flatnonzero(column)) for column in codes.T}) == 120
    assert np.all(codes.sum(axis=0) == -14)


def test_neighbours_are_told_from_other_pairs():
    assert check_saturation.described([]) == "exact"
    neighbours = [(i, i + 1) for i in range(0, 16, 2)]
    assert check_saturation.described(neighbours) == "wrong: rows 0 and 1, 2 and 3, and so on"
    assert check_saturation.described([(0, 3)]) == "wrong: 1 pairs, 0-3"
    assert check_saturation.described(list(check_saturation.PAIRS)) == "wrong: all pairs"


def test_small_weights_are_exact_on_every_processor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # onnxruntime writes its profile here
    operators, wrong = check_saturation.wrong_pairs("MatMulInteger, 1 row", 63)
    assert "MatMulInteger" in operators
    assert wrong == []


def test_a_processor_that_cannot_be_emulated_has_a_reason(monkeypatch):
    monkeypatch.setattr(check_saturation, "EMULATOR", "no-such-emulator")
    assert "is not installed" in check_saturation.elsewhere("Haswell", [127])
