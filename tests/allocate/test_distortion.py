"""Distances of outputs, against their definitions written out."""

import numpy as np
import onnx
import pytest

from comq_onnx.allocate.distortion import TINY, Outputs, Watched, truth_of, watched
from comq_onnx.allocate.distortion import divergence as divergence_of
from comq_onnx.allocate.distortion import noise as noise_of

CLASSES, VALUES = Watched("c", True), Watched("v", False)


def noise(truth: Outputs, found: Outputs, what: list[Watched]) -> float:
    return noise_of(truth_of(truth, what), found, what)


def divergence(truth: Outputs, found: Outputs, what: list[Watched]) -> float:
    return divergence_of(truth_of(truth, what), found, what)


def outputs(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "c": rng.normal(size=(3, 5, 7)).astype(np.float32),
        "v": rng.normal(size=(3, 4)).astype(np.float32),
    }


def test_divergence_is_kl_of_classes_and_relative_error_of_values() -> None:
    truth, found = outputs(0), outputs(1)
    kl = 0.0
    for a, b in zip(truth["c"].reshape(-1, 7), found["c"].reshape(-1, 7), strict=True):
        p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum() for x in (a, b))
        kl += float((p * np.log(p / q)).sum()) / 15
    assert divergence(truth, found, [CLASSES]) == pytest.approx(kl)
    relative = float(((truth["v"] - found["v"]) ** 2).sum() / (truth["v"] ** 2).sum())
    assert divergence(truth, found, [VALUES]) == pytest.approx(relative)
    assert divergence(truth, found, [CLASSES, VALUES]) == pytest.approx((kl + relative) / 2)
    assert divergence(truth, truth, [CLASSES, VALUES]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("apart", [1e-5, 1e-3, 0.1, 3.0, 60.0])
def test_divergence_of_float32_is_that_of_float64_however_near(apart: float) -> None:
    truth = {"c": outputs(0)["c"] * 5}
    found = {"c": truth["c"] + np.float32(apart) * outputs(1)["c"]}
    wide = [{"c": each["c"].astype(np.float64)} for each in (truth, found)]
    p, q = ((x - x.max(-1, keepdims=True)) for x in (wide[0]["c"], wide[1]["c"]))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    kl = float((np.exp(p) * (p - q)).sum(-1).mean())
    assert divergence(*wide, [CLASSES]) == pytest.approx(kl, rel=1e-4)
    assert divergence(truth, found, [CLASSES]) == pytest.approx(kl, rel=2e-3)


def test_noise_does_not_see_what_softmax_does_not() -> None:
    truth = outputs(0)
    assert noise(truth, {**truth, "c": truth["c"] + 3}, [CLASSES]) == pytest.approx(np.log(TINY), abs=1)
    assert noise(truth, {**truth, "v": truth["v"] + 3}, [VALUES]) > 0


def test_noise_is_the_squared_mean_amplitude_over_positions() -> None:
    truth, found = outputs(0), outputs(1)
    amplitude = np.mean(
        [np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(truth["v"], found["v"], strict=True)]
    )
    assert noise(truth, found, [VALUES]) == pytest.approx(2 * np.log(amplitude), rel=1e-5)


def test_an_output_that_stays_exact_halves_the_noise_and_does_not_hide_it() -> None:
    truth, found = outputs(0), outputs(1)
    alone = noise(truth, found, [VALUES])
    both = noise(truth, {**truth, "v": found["v"]}, [CLASSES, VALUES])
    assert both == pytest.approx(alone - np.log(2), rel=1e-6)


def test_an_output_that_was_not_computed_again_is_exact() -> None:
    truth, found = outputs(0), outputs(1)
    given = noise(truth, {**truth, "v": found["v"]}, [CLASSES, VALUES])
    assert noise(truth, {"v": found["v"]}, [CLASSES, VALUES]) == given


def test_logits_are_watched_behind_a_softmax() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] p, float[N,3] l, float[N,4] r) {
      m = MatMul(x, w)
      l = Add(m, b)
      p = Softmax(l)
      r = Relu(x)
    }""")
    assert watched(model.graph) == [Watched("l", True), Watched("r", False)]


def test_logits_are_found_behind_what_reshapes_probabilities() -> None:
    # What a Softmax of opset 11 over the last of three axes is converted to.
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,T,4] x, float[4,3] w) => (float[N,T,3] p) {
      l = MatMul(x, w)
      s = Shape(l)
      f = Flatten<axis=2>(l)
      q = Softmax(f)
      p = Reshape(q, s)
    }""")
    assert watched(model.graph) == [Watched("f", True)]


def test_classes_may_lie_along_another_axis() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4,H,W] x, float[3,4,1,1] w) => (float[N,3,H,W] p) {
      l = Conv(x, w)
      p = Softmax<axis=1>(l)
    }""")
    (found,) = watched(model.graph)
    assert found == Watched("l", True, 1)
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=(2, 3, 5, 4)) for _ in range(2))
    last = {"c": a.transpose(0, 2, 3, 1)}, {"c": b.transpose(0, 2, 3, 1)}
    assert divergence({"l": a}, {"l": b}, [found]) == pytest.approx(divergence(*last, [CLASSES]))
    assert noise({"l": a}, {"l": b}, [found]) == pytest.approx(noise(*last, [CLASSES]))
