"""Prices: what one layer's error does to the outputs, measured; hand-made numbers and a linear network."""

import math
from typing import Any

import numpy as np
import pytest

from comq_onnx.allocate.distortion import TINY, Watched, truth_of
from comq_onnx.allocate.prices import Effects, effect_at, effects_of, price_of

LOSSES = {"int4": 1e-3, "int2": 1e-1}
WATCHED = [Watched("y", False)]


class Scaled:
    """A network whose output is off by the part that its layer's solution says, times the sample's number."""

    def changed(self, layer: Any, solution: Any) -> list[dict[str, np.ndarray]]:
        del layer
        return [{"y": np.ones(4) * (1 + solution * number)} for number in (1, 2)]


def test_an_effect_is_the_relative_error_of_the_outputs_squared():
    truths = [truth_of({"y": np.ones(4), "other": np.zeros(1)}, WATCHED)] * 2
    found = effects_of(Scaled(), None, {"int4": 0.1, "int2": 0.3}, truths, WATCHED)  # type: ignore[arg-type]
    assert np.exp(found.logs["int4"]) == pytest.approx([0.01, 0.04])
    assert np.exp(found.logs["int2"]) == pytest.approx([0.09, 0.36])


def test_outputs_that_do_not_change_are_next_to_nothing():
    truths = [truth_of({"y": np.ones(4)}, WATCHED)] * 2
    found = effects_of(Scaled(), None, {"int4": 0.0}, truths, WATCHED)  # type: ignore[arg-type]
    assert np.exp(found.logs["int4"]) == pytest.approx([TINY] * 2)


def test_a_price_is_the_geometric_mean_of_effect_by_loss():
    effects = Effects({"int4": np.log([1e-3, 4e-3]), "int2": np.log([1e-1, 4e-1])})
    price, uncertainty = price_of(effects, LOSSES)
    assert price == pytest.approx(2.0)
    assert uncertainty == pytest.approx(math.log(2) / math.sqrt(2))


def test_samples_that_agree_leave_no_uncertainty():
    price, uncertainty = price_of(Effects({"int4": np.log([3e-3] * 4)}), LOSSES)
    assert (price, uncertainty) == (pytest.approx(3.0), pytest.approx(0.0))


def test_effects_go_through_what_was_measured_and_on_in_proportion():
    effects = Effects({"int4": np.log([2e-3]), "int2": np.log([0.8])})
    assert effect_at(1e-3, effects, LOSSES) == pytest.approx(2e-3)
    assert effect_at(1e-1, effects, LOSSES) == pytest.approx(0.8)
    assert effect_at(1e-2, effects, LOSSES) == pytest.approx(math.sqrt(2e-3 * 0.8))
    assert effect_at(1e-5, effects, LOSSES) == pytest.approx(2e-5)
    assert effect_at(1.0, effects, LOSSES) == pytest.approx(8.0)


def test_a_layer_without_loss_has_a_finite_price():
    price, _ = price_of(Effects({"int4": np.log([1e-9])}), {"int4": 0.0})
    assert math.isfinite(price)
    assert price > 0
