"""Pairs solved together, from the flag to the file, judged by plain onnxruntime."""

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnxruntime import InferenceSession, SessionOptions

from comq_onnx import pipeline
from comq_onnx.errors import ComqError
from comq_onnx.layerwise import Solved
from comq_onnx.pipeline import solve_model
from comq_onnx.planning import Opened, open_run
from comq_onnx.recipe import Recipe
from comq_onnx.sequential import March, march

QUANTIZED = {
    "weights": "int2",
    "block_size": "channel",
    "effort": "fast",
    "inputs": "quantized",
    "threads": 1,
}
DENSE = """g (float[n, 12] x) => (float[n, 4] y)
    { a = MatMul(x, A) b = Add(a, bias) z = Relu(b) y = MatMul(z, B) }"""
DEPTHWISE = """g (float[n, 4, 6, 6] x) => (float[n, 3, 4, 4] y)
    { p = Conv(x, P) q = Clip(p, low, high) a = Conv<group = 16>(q, D) z = Relu(a) y = Conv(z, B) }"""


def dense() -> onnx.ModelProto:
    bias = np.linspace(-1, 1, 24, dtype=np.float32)
    return model(DENSE, A=weight(12, 24), bias=bias, B=weight(24, 4, seed=1))


def depthwise() -> onnx.ModelProto:
    taps = 3 * weight(16, 1, 3, 3, seed=1)
    limits = {"low": np.float32(0), "high": np.float32(6)}
    return model(DEPTHWISE, P=weight(16, 4, 1, 1), D=taps, B=weight(3, 16, 1, 1, seed=2), **limits)


def samples(*shape: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((shape[1], shape[1]))
    return {"x": np.einsum("nc...,cd->nd...", rng.standard_normal(shape), mixing).astype(np.float32)}


CASES = {"dense": (dense, samples(256, 12)), "depthwise": (depthwise, samples(48, 4, 6, 6))}


def opened(case: str, **options) -> tuple[Opened, Recipe]:
    made, data = CASES[case]
    recipe = Recipe(**{**QUANTIZED, **options})
    return open_run(made(), data, recipe), recipe


def outputs(proto: onnx.ModelProto, data: dict[str, np.ndarray]) -> np.ndarray:
    options = SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, data)[0].astype(np.float64)


def same(one: Solved, other: Solved) -> bool:
    """Whether two runs have the same solutions, bit for bit."""
    return all(
        np.array_equal(getattr(a, field), getattr(b, field))
        for a, b in zip(one.solutions.values(), other.solutions.values(), strict=True)
        for field in ("codes", "scale", "zero_point", "bias")
    )


@pytest.mark.parametrize("case", CASES)
def test_what_is_kept_lowers_the_error_of_the_output_and_by_what_is_said(case):
    made, data = CASES[case]
    float_ = outputs(made(), data)
    errors, notes = [], ()
    for mrecg in (0, 1):
        run, recipe = opened(case, mrecg=mrecg)
        solved = march(run, recipe)
        off = outputs(pipeline.write(run, solved, recipe).model, data) - float_
        errors.append(np.square(off).sum() / np.square(float_).sum())
        notes = solved.notes
    assert errors[1] < 0.97 * errors[0]
    (line,) = (note for note in notes if note.startswith("joint re-solve of "))
    assert line.endswith("kept")
    said = [float(part) for part in line.split("module error ")[1].removesuffix(", kept").split(" -> ")]
    assert said == pytest.approx(errors, rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_what_is_rejected_leaves_every_bit_as_it_is_without(case, monkeypatch):
    run, recipe = opened(case)
    without = march(run, recipe)
    errors = iter([0.1, 0.2])
    monkeypatch.setattr("comq_onnx.joint.module_error", lambda *_: next(errors))
    run, recipe = opened(case, mrecg=1)
    rejected = march(run, recipe)
    assert same(without, rejected)
    assert rejected.notes[-1].endswith("module error 0.1 -> 0.2, not kept")
    assert rejected.drift == without.drift
    plain = pipeline.write(run, without, recipe).model
    assert pipeline.write(run, rejected, recipe).model.SerializeToString() == plain.SerializeToString()


def test_layers_behind_a_rejected_pair_see_what_they_saw(monkeypatch):
    text = """g (float[n, 12] x) => (float[n, 4] y)
    { a = MatMul(x, A) z = Relu(a) b = MatMul(z, B) s = Softmax(b) y = MatMul(s, C) }"""
    made = model(text, A=weight(12, 24), B=weight(24, 9, seed=1), C=weight(9, 4, seed=2))
    monkeypatch.setitem(CASES, "deep", (lambda: made, samples(128, 12)))
    without = march(*opened("deep"))
    errors = iter([0.1, 0.2])
    monkeypatch.setattr("comq_onnx.joint.module_error", lambda *_: next(errors))
    assert same(without, march(*opened("deep", mrecg=1)))


@pytest.mark.parametrize("memory", [0.0, 1e-5])
def test_nothing_is_left_alive_and_disk_changes_nothing(memory):
    run, recipe = opened("depthwise", mrecg=1)
    plain = march(run, recipe)
    walk = March(run, Recipe(**{**QUANTIZED, "mrecg": 1, "memory_gib": memory}), lambda *_: None)
    assert same(walk.run(), plain)
    assert walk._stream.store.held == 0
    assert (walk._stream.store.spilled > 0) == (memory > 0)


def test_a_model_without_such_pairs_says_so():
    text = "g (float[n, 12] x) => (float[n, 4] y) { a = MatMul(x, A) z = Softmax(a) y = MatMul(z, B) }"
    made = model(text, A=weight(12, 8), B=weight(8, 4, seed=1))
    recipe = Recipe(**QUANTIZED, mrecg=3)
    solved = march(open_run(made, samples(8, 12), recipe), recipe)
    assert "--mrecg 3: 0 pairs of layers can be solved together" in solved.notes


@pytest.mark.parametrize("options", [{"inputs": "float"}, {"solver": "gptq"}, {"mrecg": -1}])
def test_it_is_refused_in_one_sentence_where_it_cannot_be(options):
    with pytest.raises(ComqError, match="--mrecg"):
        Recipe(**{"mrecg": 2, **options})


def test_made_up_inputs_are_refused_too():
    recipe = Recipe(mrecg=1)
    run = open_run(dense(), None, recipe)
    with pytest.raises(ComqError, match="--mrecg"):
        solve_model(run, recipe)


def test_what_does_not_go_with_it(tmp_path):
    made, data = dense(), samples(8, 12)
    with pytest.raises(ComqError, match="cannot be gone on with"):
        pipeline.quantize(made, tmp_path / "q.onnx", data, Recipe(mrecg=1), resume=tmp_path / "kept")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ComqError, match="--bias position"):
        Recipe(mrecg=1, bias="position")
