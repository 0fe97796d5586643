"""ONNX's own test cases through the whole program, and that the judge of them sees what goes wrong."""

import numpy as np
import onnx
import pytest
from breadth import outcome
from breadth.backend import WEIGHTS, Case, cases, freeze
from breadth.outcome import distance, try_case
from check_backend import ORT, RECIPES, reasons, run
from graphs import model, weight
from processor import adds_in_16_bits

from comq_onnx import ComqError

HELD = (
    "conv",
    "Conv",
    "gemm",
    "matmul",
    "Linear",
    "linear",
    "Embedding",
    "addmm",
    "mm",
    "lstm",
    "gru",
    "rnn",
)
PRODUCT = "g (float[2, 16] x, float[16, 8] W) => (float[2, 8] y) { y = MatMul(x, W) }"


@pytest.fixture(scope="module")
def every_case() -> list[Case]:
    return list(cases())


def with_a_weight(every_case: list[Case]) -> list[Case]:
    return [case for case in every_case if any(word in case.name for word in HELD)]


def product() -> Case:
    return Case("product", "node", model(PRODUCT), ({"x": weight(2, 16), "W": weight(16, 8)},))


@pytest.mark.slow
def test_every_case_is_quantized_or_has_a_reason(every_case):
    tried = run("ort", every_case)
    assert [(case.name, found.why) for case, found in tried if found.kind == "defect"] == []
    assert all(found.why for _, found in tried if found.kind != "quantized")
    assert sum(found.kind == "quantized" for _, found in tried) >= 80
    kinds = {kind for kind, _, _ in reasons(tried)}
    assert kinds <= {"nothing", "refused", "float fails"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "ort"])
def test_cases_with_weights_by_every_recipe(name, every_case):
    tried = run(name, with_a_weight(every_case))
    assert [(case.name, found.why) for case, found in tried if found.kind == "defect"] == []
    # Where products overflow, the files in which they do are refused.
    least = 20 if RECIPES[name][0].activations == "int8" and adds_in_16_bits() else 50
    assert sum(found.kind == "quantized" for _, found in tried) >= least


def test_some_cases(every_case):
    few = [
        case for case in every_case if case.name.startswith(("test_matmul_", "test_gemm_", "test_conv_with"))
    ]
    tried = run("ort", few)
    assert [(case.name, found.why) for case, found in tried if found.kind == "defect"] == []
    assert sum(found.kind == "quantized" for _, found in tried) >= 20


def test_a_weight_that_is_fed_becomes_a_constant():
    frozen = freeze(product(), WEIGHTS, "frozen")
    assert [info.name for info in frozen.model.graph.input] == ["x"]
    assert list(frozen.feeds[0]) == ["x"]
    onnx.checker.check_model(frozen.model, full_check=True)
    assert freeze(frozen, WEIGHTS, "again") is None
    assert try_case(product().model, product().feeds, ORT).kind == "nothing"
    found = try_case(frozen.model, frozen.feeds, ORT)
    assert (found.kind, found.report.lines[0].shape) == ("quantized", (16, 8))
    assert 0 < found.error < 1e-2


def test_a_model_of_constants_alone_is_not_frozen():
    case = product()
    alone = Case("alone", "node", case.model, ({"W": case.feeds[0]["W"]},))
    alone.model.graph.input.pop(0)
    assert freeze(alone, WEIGHTS, "frozen") is None


def frozen_product() -> Case:
    case = freeze(product(), WEIGHTS, "frozen")
    assert case is not None
    return case


@pytest.mark.parametrize(
    ("raised", "kind", "word"),
    [
        (ValueError("boom"), "defect", "boom"),
        (ComqError("no layer can be quantized: because"), "nothing", "because"),
        (ComqError("it is bad", fix="do this"), "refused", "it is bad; do this."),
        (outcome.HangError("no end"), "defect", "no end"),
    ],
)
def test_each_way_to_end_has_its_name(raised, kind, word, monkeypatch):
    def fails(*args, **fields):
        raise raised

    monkeypatch.setattr(outcome, "quantize", fails)
    case = frozen_product()
    found = try_case(case.model, case.feeds, ORT)
    assert found.kind == kind
    assert word in found.why


def test_a_file_that_is_far_from_the_float_model_is_a_defect():
    case = frozen_product()
    assert try_case(case.model, case.feeds, ORT, 1e-6).kind == "defect"


def test_a_float_model_that_does_not_run_is_told_apart():
    made = model("g (float[2, 16] x) => (float[2, 8] y) { y = MatMul(x, W) }", W=weight(16, 8))
    found = try_case(made, [{"x": weight(3, 17)}], ORT)
    assert found.kind == "float fails"


def test_distances():
    a = np.array([3.0, 4.0], np.float32)
    assert distance([[a]], [[a + np.float32(0.5)]]) == pytest.approx(np.sqrt(0.5) / 5)
    assert distance([[a]], [[a[:1]]]) == np.inf
    assert distance([[np.float32([np.nan, 1])]], [[np.float32([np.nan, 1])]]) == 0
    assert distance([[np.float32([np.nan, 1])]], [[np.float32([1, 1])]]) == np.inf
    assert distance([[[a, a]]], [[[a]]]) == np.inf
    assert distance([[np.arange(20)]], [[np.arange(20) // 19 * 19]]) > outcome.LIMIT
    assert distance([[None]], [[None]]) == 0
