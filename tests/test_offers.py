"""What targets say they would do, against what they do."""

import numpy as np
import pytest
from graphs import model, weight

from comq_onnx import ComqError, Recipe, quantize
from comq_onnx.offers import ACTIVATIONS, WIDTHS, inspect
from comq_onnx.recipe import CHOICES

NET = model(
    """g (int64[N, 4] ids, float[N, 3, 8, 8] image) => (float[N, 4, 200] y, float[N, 8, 6, 6] z) {
        [table] t = Gather(words, ids)
        [wide] a = MatMul(t, wide)
        [act] b = Tanh(a)
        [narrow] y = MatMul(b, narrow)
        [conv] z = Conv(image, kernel)
    }""",
    words=weight(50, 256),
    wide=weight(256, 384, seed=1),
    narrow=weight(384, 200, seed=2),
    kernel=weight(8, 3, 3, 3, seed=3),
)
RNG = np.random.default_rng(0)
DATA = {
    "ids": RNG.integers(0, 50, (4, 4)),
    "image": RNG.standard_normal((4, 3, 8, 8)).astype(np.float32),
}


@pytest.fixture(scope="module")
def offered():
    return {line.layer: line.offers for line in inspect(NET).weights}


def test_all_weights_and_all_targets(offered):
    assert list(offered) == ["table", "wide", "narrow", "conv"]
    for offers in offered.values():
        assert list(offers) == list(CHOICES["target"])
        assert all(list(widths) == [*WIDTHS, ACTIVATIONS] for widths in offers.values())
    assert WIDTHS == ("int8", "int6", "int5", "int4", "int3", "int2")


@pytest.mark.parametrize("target", CHOICES["target"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_offers_are_kept(offered, target, width, tmp_path):
    """The form and grid of each layer of a file that was written are those that were told beforehand."""
    recipe = Recipe(target=target, weights=width, solver="rtn", inputs="float", rules=(f"^table$={width}",))
    report = quantize(NET, tmp_path / "q.onnx", DATA, recipe)
    for line in report.lines:
        offer = offered[line.name][target][width]
        assert (offer.form, offer.grid or "float") == (line.form, line.grid)
        if not line.form:
            assert offer.why == line.reason


def test_eight_bit_activations(offered):
    eight = {name: {t for t, o in offers.items() if o[ACTIVATIONS].form} for name, offers in offered.items()}
    assert eight == {
        "table": set(),
        "wide": {"portable", "ort", "openvino", "web", "tensorrt"},
        "narrow": {"portable", "ort", "openvino", "web", "tensorrt"},
        "conv": {"ort", "openvino", "web", "tensorrt"},
    }
    assert offered["conv"]["portable"][ACTIVATIONS].why == "no form of an 8-bit Conv is fast in every runtime"
    assert "float activations" in offered["wide"]["fakequant"][ACTIVATIONS].why


def test_a_target_that_has_no_such_file_for_this_model():
    convs = model("g (float[N, 3, 8, 8] x) => (float[N, 8, 6, 6] y) { y = Conv(x, w) }", w=weight(8, 3, 3, 3))
    (line,) = inspect(convs, ["portable"]).weights
    assert line.offers["portable"][ACTIVATIONS].why.startswith("activations of too few layers")
    assert line.offers["portable"]["int4"].form == "Cast*scale"


def test_weights_that_nothing_can_quantize_say_why():
    proto = model(
        "g (float[3, N, 8] x) => (float[3, 1, N, 4] y) { y, h = LSTM<hidden_size = 4>(x, w, r) }",
        w=weight(1, 16, 8),
        r=weight(1, 16, 4),
    )
    lines = inspect(proto).weights
    assert {line.weight for line in lines} == {"w", "r"}
    assert all((line.reason, line.offers) == ("LSTM weights are not supported", {}) for line in lines)


def test_no_weights_at_all_and_wrong_targets():
    assert inspect(model("g (float[N] x) => (float[N] y) { y = Relu(x) }")).weights == ()
    with pytest.raises(ComqError, match="target 'mars': there is no such target; name one of portable"):
        inspect(NET, ["mars"])
