"""Whole runs with channel scales moved out of 8-bit activations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import model, weight

from comq_onnx import Recipe, pipeline, quantize
from comq_onnx.errors import MemoryExhaustedError
from comq_onnx.graph.io import load
from comq_onnx.graph.locate import nodes_of
from comq_onnx.pipeline import make
from comq_onnx.planning import Opened, Progress, open_run, plan
from comq_onnx.smoothing import resmoothed, smooth_notes, smoothed_run

BLOCK = """g (float[B,9,32] x) => (float[B,9,32] y) {
  n = LayerNormalization(x, gamma, beta)
  u = MatMul(n, U)
  v = Add(u, b)
  h = Gelu(v)
  d = MatMul(h, D)
  r = Add(d, x)
  m = LayerNormalization(r, gamma2, beta2)
  f = MatMul(m, F)
  y = Add(f, m)
}"""
NAMES = {"n_u", "n_d", "n_f"}


def block(kind: type = np.float32) -> onnx.ModelProto:
    """Three products: behind a norm, behind a Gelu, and behind a norm that a residual reads too."""
    rng = np.random.default_rng(1)
    gammas = [1 + 20.0 * (rng.random(32) > 0.9) for _ in range(2)]
    values = {"U": weight(32, 64), "D": weight(64, 32, seed=2), "F": weight(32, 32, seed=3)}
    values |= {
        "gamma": gammas[0],
        "gamma2": gammas[1],
        "beta": weight(32, seed=4),
        "beta2": weight(32, seed=5),
    }
    values["b"] = 3 * weight(64, seed=6) * 8
    text = BLOCK if kind is np.float32 else BLOCK.replace("float[", "float16[")
    made = model(text, 20, 9, **{name: value.astype(kind) for name, value in values.items()})
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    return made


def samples(count: int = 32, kind: type = np.float32) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).standard_normal((count, 9, 32)).astype(kind)}


def opened(recipe: Recipe, **data: np.ndarray) -> Opened:
    return smoothed_run(open_run(block(), data or samples(), recipe), recipe)


def answers(made: onnx.ModelProto | Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    source = made.SerializeToString() if isinstance(made, onnx.ModelProto) else str(made)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def lost(made: onnx.ModelProto | Path) -> float:
    """Squared error over energy, on samples of their own."""
    fresh = {"x": np.random.default_rng(8).standard_normal((64, 9, 32)).astype(np.float32)}
    truth = answers(block(), fresh)
    return float(np.square(answers(made, fresh) - truth).sum() / np.square(truth).sum())


def a8(target: str = "ort", **fields: object) -> Recipe:
    return Recipe(weights="int8", activations="int8", target=target, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["ort", "openvino", "portable", "tensorrt"])
def test_the_file_is_nearer_to_the_float_model(target: str, tmp_path: Path) -> None:
    recipe = a8(target, size_first=True)  # which spares no layer
    plain = make(open_run(block(), samples(), recipe), recipe).outcome.model
    report = quantize(block(), tmp_path / "q.onnx", samples(), recipe)
    assert report.verification.ok, report.verification.checks
    assert {line.activations for line in report.lines} == {"8-bit"}
    assert any("channel scales" in note for note in report.notes)
    if target != "tensorrt":  # whose graph is float16
        assert lost(tmp_path / "q.onnx") < lost(plain) / 3


def test_the_prepared_graph_computes_what_the_model_does() -> None:
    run = opened(a8())
    feeds = samples(4)
    np.testing.assert_allclose(
        answers(run.plan.prepared, feeds), answers(block(), feeds), rtol=2e-4, atol=2e-5
    )


def test_norms_take_the_division_where_nothing_else_reads_them() -> None:
    run = opened(a8())
    into = {one.tensor: one.into for one in run.plan.smoothed}
    assert into["n"] == "n_n"
    assert into["m"] == ""
    assert {layer.input for layer in run.plan.layers} >= {"n", "m_smoothed"}
    stored = {value.tensor for value in run.plan.placement.values}
    assert stored == {layer.input for layer in run.plan.layers}
    assert run.plan.placement.layers == NAMES


def test_notes_count_what_was_done_and_what_was_not() -> None:
    run = opened(a8())
    done, total = len(run.plan.smoothed), len(run.plan.smoothed) + run.plan.unsmoothed
    assert total == 3
    (note,) = smooth_notes(run.plan)
    assert f"{done} of {total} inputs" in note
    assert smooth_notes(replace(run.plan, smoothed=(), unsmoothed=3))[0].startswith("of 3 inputs")
    assert smooth_notes(replace(run.plan, smoothed=(), unsmoothed=0)) == ()


@pytest.mark.parametrize("recipe", [Recipe(weights="int8", activations="none"), Recipe(weights="int8")])
def test_nothing_is_done_for_weights_alone(recipe: Recipe) -> None:
    run = open_run(block(), samples(), recipe)
    assert smoothed_run(run, recipe) is run


def test_nothing_is_done_on_made_up_inputs() -> None:
    run = open_run(block(), None, a8())
    assert smoothed_run(run, a8()) is run


def test_activations_rounded_on_the_fly_gain_too() -> None:
    recipe = Recipe(weights="int8", activations="dynamic", target="ort")
    run = open_run(block(), samples(), recipe)
    done = smoothed_run(run, recipe)
    assert done.plan.smoothed
    assert lost(make(done, recipe).outcome.model) < lost(make(run, recipe).outcome.model) / 1.5


def test_a_plan_made_anew_takes_the_same_scales() -> None:
    """As budgets do: layers that are float by then keep what they read."""
    run = opened(a8())
    other = replace(a8(), rules=("n_f=float",))
    again = resmoothed(plan(block(), other, True), run, other)
    assert {one.tensor for one in again.smoothed} == {one.tensor for one in run.plan.smoothed} - {"m"}
    feeds = samples(4)
    np.testing.assert_allclose(answers(again.prepared, feeds), answers(block(), feeds), rtol=2e-4, atol=2e-5)


def test_a_budget_keeps_the_scales(tmp_path: Path) -> None:
    report = quantize(block(), tmp_path / "q.onnx", samples(), replace(a8(), target_size="0.4x"))
    assert report.verification.ok
    assert report.bytes_after <= 0.4 * report.bytes_before
    assert any("channel scales" in note for note in report.notes)


def test_a_run_that_was_broken_off_goes_on_with_the_same_graph(tmp_path: Path) -> None:
    folder, first, second = tmp_path / "kept", tmp_path / "a.onnx", tmp_path / "b.onnx"
    quantize(block(), first, samples(), a8(), resume=folder)
    report = quantize(block(), second, samples(), a8(), resume=folder)
    assert any("taken" in note for note in report.notes)
    assert first.read_bytes() == second.read_bytes()


def test_little_memory_makes_the_same_file(tmp_path: Path) -> None:
    for name, how in (("a", a8()), ("b", a8(memory_gib=1e-4)), ("c", a8(threads=1))):
        quantize(block(), tmp_path / name, samples(), how)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_memory_that_runs_out_while_rows_are_gathered_is_told(tmp_path, monkeypatch) -> None:
    quantize(block(), tmp_path / "a.onnx", samples(), a8())
    asked = []

    def short(opened: Opened, recipe: Recipe, progress: Progress) -> Opened:
        asked.append(recipe.memory_gib)
        if len(asked) == 1:
            raise MemoryExhaustedError("memory ran out on 'x'")
        return smoothed_run(opened, recipe, progress)

    monkeypatch.setattr(pipeline, "smoothed_run", short)
    report = quantize(block(), tmp_path / "b.onnx", samples(), a8())
    assert len(set(asked)) == 2
    assert "memory ran out on 'x': with activations and statistics on disk" in report.notes
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_weights_that_lie_in_files_stay_there(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(block(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    recipe = a8(memory_gib=1e-5)
    run = smoothed_run(open_run(path, samples(), recipe), recipe)
    assert run.plan.outside is not None
    assert run.plan.smoothed
    report = quantize(path, tmp_path / "q.onnx", samples(), recipe)
    assert report.verification.ok
    assert lost(tmp_path / "q.onnx") == pytest.approx(lost(make(opened(a8()), a8()).outcome.model), rel=1e-3)


def test_float16_has_scales_that_are_powers_of_two() -> None:
    recipe = a8("tensorrt")
    run = smoothed_run(open_run(block(np.float16), samples(kind=np.float16), recipe), recipe)
    assert run.plan.smoothed
    for one in run.plan.smoothed:
        assert (np.log2(one.scale) % 1 == 0).all()
    kinds = {node.op for node, _ in nodes_of(load(run.plan.prepared))}
    assert "Mul" in kinds
