"""docs/report.md and the schema say what the code says, and real reports keep to the schema."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import report_schema
from evaluate.allocating import allocation, price
from evaluate.reporting import halved, kept, line, report
from graphs import model, weight

from comq_onnx import Recipe, quantize
from comq_onnx.records import ActivationKind, ValueGrid


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(report_schema.SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_files_are_current() -> None:
    for path, text in report_schema.made().items():
        assert path.read_text(encoding="utf-8") == text, "run: python tools/report_schema.py"


def test_every_field_has_a_meaning() -> None:
    for record in report_schema.records(report_schema.Report):
        assert all(report_schema.meanings(record).values())
        assert set(report_schema.meanings(record)) >= {f.name for f in report_schema.fields(record)}


def test_made_up_reports_are_valid(validator: jsonschema.Draft202012Validator) -> None:
    strange = allocation(price("a", price=float("nan")), effect=float("inf"))
    lines = (line("a", None, float("inf"), 0.1), kept("k"), halved("h"))
    grid = ValueGrid(0.5, 3, ActivationKind(signed=False, symmetric=False))
    made = replace(report(*lines), allocation=strange, activations={"t": grid})
    validator.validate(json.loads(json.dumps(made.as_dict(), allow_nan=False)))


NET = "g (float[B,64] x) => (float[B,16] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
RECIPES = {
    "plain": Recipe(),
    "asymmetric": Recipe(symmetric=False, weights="int8", rules=("y=int4:32",)),
    "budget": Recipe(target_size="0.5x", effort="fast"),
    "activations": Recipe(
        target="ort", weights="int8", activations="int8", size_first=True, reduce_range=True
    ),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_real_reports_are_valid(
    recipe: Recipe, tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    net = model(NET, w1=weight(64, 128), w2=weight(128, 16))
    for node in net.graph.node:
        node.name = node.output[0]
    onnx.save(net, tmp_path / "net.onnx")
    data = {"x": np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)}
    made = quantize(tmp_path / "net.onnx", tmp_path / "o.onnx", data=data, recipe=recipe)
    told = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    validator.validate(told)
    assert told["schema_version"] == 1
    assert told["recipe"] == json.loads(json.dumps(recipe.as_dict()))
    assert (told["allocation"] is not None) == recipe.budgeted
    assert bool(told["activations"]) == (recipe.activations == "int8")
    assert told["spreads"]
    assert told["command"].startswith("comq-onnx net.onnx --calibration-data samples.npz ")
    assert told["versions"]["numpy"] == np.__version__


def test_what_is_wrong_is_refused(validator: jsonschema.Draft202012Validator) -> None:
    right = json.loads(json.dumps(report(line("a", 1.0, 2.0)).as_dict()))
    assert validator.is_valid(right)
    changes = (
        lambda told: told.pop("lines"),
        lambda told: told.update(schema_version=2),
        lambda told: told.update(bytes_after=1.5),
        lambda told: told["recipe"].update(wieghts="int4"),
        lambda told: told["recipe"].update(weights="int1"),
        lambda told: told["lines"][0].update(sqnr_after="high"),
        lambda told: told["verification"]["checks"][0].pop("ok"),
    )
    for change in changes:
        wrong = copy.deepcopy(right)
        change(wrong)
        assert not validator.is_valid(wrong)
