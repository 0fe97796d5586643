"""Budgets as they are written, and whole runs that keep them."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from comq_onnx.allocate.prices import effects_of
from comq_onnx.allocate.storage import storages
from comq_onnx.budget import parse_size
from comq_onnx.errors import ComqError
from comq_onnx.pipeline import quantize
from comq_onnx.planning import plan
from comq_onnx.recipe import Recipe
from comq_onnx.run.session import open_session
from comq_onnx.targets.size import file_bytes


def net() -> onnx.ModelProto:
    """Three layers; the last is what the classes are made of."""
    rng = np.random.default_rng(0)
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 64] x) => (float[n, 32] y) {
      a = MatMul(x, w1)
      b = Relu(a)
      c = MatMul(b, w2)
      d = Relu(c)
      y = MatMul(d, w3)
    }
    """
    model = onnx.parser.parse_model(text)
    for number, (node, shape) in enumerate(
        zip((0, 2, 4), ((64, 128), (128, 128), (128, 32)), strict=True), 1
    ):
        model.graph.node[node].name = f"fc{number}"
        weight = rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{number}"))
    return model


def samples(count: int = 64) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 64)).astype(np.float32)} for _ in range(count)]


def run(tmp_path: Path, **changes: object) -> tuple[Path, object]:
    out = tmp_path / "out.onnx"
    recipe = Recipe(target="ort", effort="fast", **changes)  # pyright: ignore[reportArgumentType]
    return out, quantize(net(), out, samples(), recipe)


@pytest.mark.parametrize(
    ("text", "whole", "size"),
    [("12MB", 1.0, 12e6), ("1.5KiB", 1.0, 1536.0), ("800B", 1.0, 800.0), ("0.25x", 1000.0, 250.0)],
)
def test_sizes_are_read(text: str, whole: float, size: float) -> None:
    assert parse_size(text).of(whole) == size


@pytest.mark.parametrize("text", ["", "12", "x", "-3MB", "0MB", "12 parsecs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ComqError, match="--target-size"):
        parse_size(text)


@pytest.mark.parametrize("share", [0.16, 0.22, 0.3])
def test_the_file_is_never_larger_than_asked_for(tmp_path: Path, share: float) -> None:
    asked = int(share * net().ByteSize())
    out, report = run(tmp_path, target_size=f"{asked}B")
    assert out.stat().st_size <= asked
    allocation = report.allocation  # pyright: ignore[reportAttributeAccessIssue]
    assert {price.layer for price in allocation.prices} == {"fc1", "fc2", "fc3"}
    assert all(price.price > 0 and price.uncertainty >= 0 for price in allocation.prices)
    lines = {line.name: line.grid for line in report.quantized}  # pyright: ignore[reportAttributeAccessIssue]
    assert all(lines[p.layer] == p.chosen for p in allocation.prices if p.layer in lines)
    open_session(out).run(samples(1)[0])


def test_small_layers_are_measured_on_the_first_anchor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = {}

    def spied(onward, layer, solutions, *rest):
        tried[layer.name] = list(solutions)
        return effects_of(onward, layer, solutions, *rest)

    monkeypatch.setattr("comq_onnx.pricing.effects_of", spied)
    monkeypatch.setattr("comq_onnx.pricing.SMALL", 0.5)  # fc3 has less than half of the mean
    run(tmp_path, target_size="0.3x")
    assert {name: len(names) for name, names in tried.items()} == {"fc1": 2, "fc2": 2, "fc3": 1}
    assert all(names[0].startswith("int4") for names in tried.values())


def test_more_budget_never_costs_predicted_error(tmp_path: Path) -> None:
    effects = []
    for share in (0.16, 0.22, 0.3):
        _, report = run(tmp_path, target_size=f"{share}x")
        effects.append(report.allocation.effect)  # pyright: ignore[reportAttributeAccessIssue]
    assert effects == sorted(effects, reverse=True)


def test_bits_count_scales_and_biases(tmp_path: Path) -> None:
    _, report = run(tmp_path, avg_bits=5.0)
    prices = report.allocation.prices  # pyright: ignore[reportAttributeAccessIssue]
    taken = sum(next(c.bytes for c in p.candidates if c.name == p.chosen) for p in prices)
    weights, outputs = 64 * 128 + 128 * 128 + 128 * 32, 128 + 128 + 32
    assert 8 * (taken + 4 * outputs) <= 5.0 * weights


def test_a_budget_that_cannot_be_kept_says_by_how_much(tmp_path: Path) -> None:
    with pytest.raises(ComqError, match=r"bytes above it.*--target-size|--target-size.*bytes above it"):
        run(tmp_path, target_size="2KB")
    with pytest.raises(ComqError, match="bits for each weight above it"):
        run(tmp_path, avg_bits=1.0)
    assert not list(tmp_path.iterdir())


def test_rules_by_hand_go_before_a_budget(tmp_path: Path) -> None:
    _, report = run(tmp_path, target_size="0.5x", rules=("fc3=int8",), keep_float=("fc1",))
    lines = {line.name: line.grid for line in report.lines}  # pyright: ignore[reportAttributeAccessIssue]
    assert lines["fc1"] == "float"
    assert lines["fc3"] == "int8 channel"
    chosen = [price.layer for price in report.allocation.prices]  # pyright: ignore[reportAttributeAccessIssue]
    assert chosen == ["fc2"]


def test_the_same_run_makes_the_same_file(tmp_path: Path) -> None:
    first, _ = run(tmp_path, target_size="0.2x")
    before = first.read_bytes()
    again, _ = run(tmp_path, target_size="0.2x", threads=1)
    assert again.read_bytes() == before


def test_a_storage_takes_the_bytes_that_the_file_grows_by() -> None:
    recipe = Recipe(target="ort")
    made = plan(net(), recipe)
    found = storages(made.prepared, made.layers, made.layers, recipe, made.placement)
    base = dict(made.grids)
    whole = file_bytes(made.prepared, made.layers, base, recipe)
    for layer in made.layers:
        own = next(s.bytes for s in found[layer.name] if s.name == str(base[layer.name]))
        for storage in found[layer.name]:
            if storage.grid is not None:
                size = file_bytes(made.prepared, made.layers, {**base, layer.name: storage.grid}, recipe)
                # What nodes take is told within a few bytes for each.
                assert abs((size - whole) - (storage.bytes - own)) <= 100, storage


def test_a_weight_in_float16_takes_the_bytes_that_the_file_grows_by() -> None:
    made = plan(net(), Recipe(target="ort"))
    found = storages(made.prepared, made.layers, made.layers, Recipe(target="ort"), made.placement)
    for layer in made.layers:
        sizes, told = {}, {s.name: s.bytes for s in found[layer.name] if s.grid is None}
        for width in ("float", "float16"):
            recipe = Recipe(target="ort", rules=(f"^{layer.name}$={width}",))
            part = plan(net(), recipe)
            held = (part.grids, recipe, part.placement, part.halved)
            sizes[width] = file_bytes(part.prepared, part.layers, *held)
        assert abs((sizes["float"] - sizes["float16"]) - (told["float"] - told["float16"])) <= 20


def test_a_budget_that_the_float_model_keeps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComqError, match="keeps the budget, so nothing is to be quantized"):
        run(tmp_path, target_size="9MB")
    assert not list(tmp_path.iterdir())
