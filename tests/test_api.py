"""The names of the package, as a caller in Python meets them."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import onnx
import pytest
from graphs import model, weight

import comq_onnx
from comq_onnx import ComqError, Recipe, quantize, read_recipe, write_recipe
from comq_onnx.fields import RecipeFields
from comq_onnx.keywords import ELSEWHERE, settled

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    text = "g (float[B,64] x) => (float[B,16] y) { h = MatMul(x, v) r = Relu(h) y = MatMul(r, w) }"
    made = model(text, v=weight(64, 96), w=weight(96, 16))
    made.graph.node[0].name, made.graph.node[2].name = "first", "head"
    onnx.save(made, path)
    return path


SAMPLES = {"x": np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)}


def test_every_field_of_a_recipe_is_a_keyword_of_its_type() -> None:
    hints, keywords = get_type_hints(Recipe), get_type_hints(RecipeFields)
    assert list(keywords) == [field.name for field in dataclasses.fields(Recipe)]
    for name, hint in hints.items():
        if keywords[name] != hint:  # wider for a caller: a list, a number, a size with a unit
            assert hint in get_args(keywords[name]) or hint == tuple[str, ...]


def test_fields_are_keywords(net: Path, tmp_path: Path) -> None:
    report = quantize(net, tmp_path / "q.onnx", data=SAMPLES, weights="int8", keep_float="head")
    assert report.recipe == {"weights": "int8", "keep_float": ("head",)}
    assert [line.name for line in report.kept] == ["head"]


def test_the_same_by_keywords_by_a_recipe_and_by_a_file(net: Path, tmp_path: Path) -> None:
    chosen = Recipe(weights="int8", block_size="32", solver="rtn")
    write_recipe(chosen, str(tmp_path / "recipe.toml"))
    assert read_recipe(str(tmp_path / "recipe.toml")) == chosen
    written = []
    for arguments in (
        {"recipe": chosen},
        {"recipe": tmp_path / "recipe.toml"},
        {"recipe": str(tmp_path / "recipe.toml")},
        {"weights": "int8", "block_size": 32, "solver": "rtn"},
        {"recipe": Recipe(weights="int3", block_size="32"), "weights": "int8", "solver": "rtn"},
    ):
        quantize(net, tmp_path / "q.onnx", SAMPLES, **arguments)  # type: ignore[arg-type]
        written.append((tmp_path / "q.onnx").read_bytes())
    assert len(set(written)) == 1


@pytest.mark.parametrize(
    ("written", "held"),
    [
        ({"block_size": -1}, {"block_size": "channel"}),
        ({"memory_gib": "2GiB"}, {"memory_gib": 2.0}),
        ({"rules": ["a=int8", "b=float"]}, {"rules": ("a=int8", "b=float")}),
        ({"nodes_to_exclude": "head"}, {"nodes_to_exclude": ("head",)}),
        ({"threads": np.int64(2), "avg_bits": np.float32(3.5)}, {"threads": 2, "avg_bits": 3.5}),
    ],
)
def test_what_a_caller_may_write(written: dict[str, Any], held: dict[str, Any]) -> None:
    assert settled(None, written) == Recipe(**held)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"wieghts": "int4"}, "quantize: it has no keyword 'wieghts'; did you mean weights."),
        ({"calibration_data": 1}, "quantize: it has no keyword 'calibration_data'; did you mean data."),
        ({"progres": 1}, "quantize: it has no keyword 'progres'; did you mean progress."),
        ({"bits": 4}, "quantize: it has no keyword 'bits'; did you mean weights."),
        ({"zzz": 4}, "quantize: it has no keyword 'zzz'; see the fields of comq_onnx.Recipe."),
        ({"weights": 4}, "quantize(weights=): 4 is not text; use one of int4, int8, int6, int5, int3, int2."),
        ({"target": "tpu"}, "quantize(target=): 'tpu' is not a value of it; use one of portable, ort, "),
        ({"threads": "2"}, "quantize(threads=): '2' is not a whole number; write a whole number."),
        ({"memory_gib": "lots"}, "quantize(memory_gib=): 'lots' is not a size; write it as 2GB, "),
        ({"recipe": {}}, "quantize(recipe=): a dict is no recipe; give a Recipe, the path of a TOML file, "),
        ({"bias": "block", "activations": "int8"}, "--bias block with --activations int8: it would stand"),
    ],
)
def test_what_is_wrong_is_one_sentence(keywords: dict[str, Any], said: str, net: Path) -> None:
    with pytest.raises(ComqError) as caught:
        quantize(net, net.with_name("q.onnx"), SAMPLES, **keywords)
    assert str(caught.value).startswith(said)
    assert not net.with_name("q.onnx").exists()


def test_names_of_elsewhere_lead_to_keywords_that_exist() -> None:
    arguments = set(quantize.__annotations__) | set(get_type_hints(RecipeFields))
    assert set(ELSEWHERE.values()) <= arguments
    assert not set(ELSEWHERE) & arguments


def test_progress_reaches_the_end_of_every_stage_and_may_end_the_run(net: Path, tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def tell(stage: str, done: int, total: int) -> None:
        told.setdefault(stage, []).append((done, total))

    quantize(net, tmp_path / "q.onnx", SAMPLES, progress=tell)
    assert {"read", "solve", "verify"} <= set(told)
    for steps in told.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "solve":
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        quantize(net, tmp_path / "stopped.onnx", SAMPLES, progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "q.onnx"]


def test_public_names_are_there_to_complete_and_documented() -> None:
    assert dir(comq_onnx) == sorted(comq_onnx.__all__)
    for name in comq_onnx.__all__:
        assert getattr(comq_onnx, name) is not None
        assert f"`{name}`" in PAGE or f"## {name}" in PAGE or f"`{name}(" in PAGE
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        comq_onnx.quantise  # noqa: B018


@pytest.mark.slow
def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """In the order they stand in, as one program, on the sample of the repository."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "samples" / "glyphs" / "glyphs.onnx", "model.onnx")
    shutil.copy(ROOT / "samples" / "glyphs" / "calibration.npz", "samples.npz")
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) >= 8
    names: dict[str, Any] = {}
    for example in examples:
        exec(compile(example, "docs/api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "solve done" in printed
    assert printed.splitlines()[-1] == re.findall(r"^prints `(.*?)`", PAGE, re.MULTILINE)[0]
