"""The recipe refuses what it cannot mean."""

import pytest

from comq_onnx import ComqError, Recipe


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("weights", "int1", "--weights"),
        ("solver", "adaround", "--solver"),
        ("target", "tpu", "--target"),
        ("block_size", "48", "--block-size"),
        ("batch_size", 0, "--batch-size"),
        ("calibration_samples", 0, "--calibration-samples"),
        ("effort", "heroic", "--effort"),
        ("device", "gpu", "--device"),
        ("device", "cuda:first", "--device"),
        ("threads", -1, "--threads"),
    ],
)
def test_a_wrong_value_names_its_flag(field: str, value: object, said: str) -> None:
    with pytest.raises(ComqError, match=said):
        Recipe(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("activations", ["none", "dynamic"])
def test_two_ranges_need_activations_that_have_one(activations: str) -> None:
    with pytest.raises(ComqError, match="--twin-ranges"):
        Recipe(twin_ranges=True, activations=activations)  # type: ignore[arg-type]
    assert Recipe(twin_ranges=True, activations="int8").twin_ranges


def test_two_ranges_need_float32() -> None:
    with pytest.raises(ComqError, match="float16"):
        Recipe(twin_ranges=True, activations="int8", high_precision_dtype="fp16")


def test_only_what_was_asked_for_is_kept() -> None:
    assert Recipe().as_json() == "{}"
    assert Recipe(threads=2, effort="max").as_json() == '{"effort": "max"}'
    assert Recipe(weights="int2", nodes_to_exclude=("head",)).as_dict() == {
        "weights": "int2",
        "nodes_to_exclude": ("head",),
    }


@pytest.mark.parametrize(
    ("solver", "bias", "expected"),
    [("comq", "auto", True), ("gptq", "auto", False), ("rtn", "channel", True), ("comq", "none", False)],
)
def test_the_bias_follows_the_solver_unless_told(solver: str, bias: str, expected: bool) -> None:
    assert Recipe(solver=solver, bias=bias).compensate is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", ["position", "block"])
def test_a_bias_behind_an_8_bit_layer_is_refused(bias) -> None:
    with pytest.raises(ComqError, match="8-bit output"):
        Recipe(activations="int8", bias=bias)


@pytest.mark.parametrize("gib", [1e300, float("inf"), float("nan"), -1.0])
def test_a_memory_that_no_machine_has_is_refused(gib: float) -> None:
    with pytest.raises(ComqError, match="no size of a memory"):
        Recipe(memory_gib=gib)
