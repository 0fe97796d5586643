"""A recipe goes to a file and comes back; what is wrong in a file is said with its name and key."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comq_onnx.config import as_toml, key_of, read_recipe, write_recipe
from comq_onnx.errors import ComqError
from comq_onnx.recipe import CHOICES, Recipe

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LISTS = st.lists(TEXTS, max_size=3).map(tuple)
OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "rules": st.lists(
        st.tuples(
            TEXTS.filter(bool), st.sampled_from(["float", "float16", "int8", "int4:32", "int2:tensor"])
        ),
        max_size=3,
    ).map(lambda pairs: tuple(f"{pattern}={width}" for pattern, width in pairs)),
    "memory_gib": st.floats(0, 1e6, allow_subnormal=False),
    "max_drop": st.sampled_from(["", "0.5%", "0.01"]),
    "target_size": st.sampled_from(["3MB", "0.2x", "800KiB"]),
    "avg_bits": st.floats(0, 32, allow_subnormal=False),
    "mrecg": st.just(0),  # it goes with some solvers only
    "preprocess": st.sampled_from(["", "imagenet", "yolo,size=320x640", "mean255=127,128,129,std255=128"]),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    "shards": st.integers(1, 50).map(lambda half: 2 * half),
    "dask": st.sampled_from(["", "local:2", "tcp://10.0.0.1:8786"]),
}
KINDS = {bool: st.booleans(), int: st.integers(1, 10**6), str: TEXTS, tuple: LISTS}


def strategy(name: str, default: Any) -> st.SearchStrategy[Any]:
    if name in CHOICES:
        return st.sampled_from(CHOICES[name])
    return OTHERS[name] if name in OTHERS else KINDS[type(default)]


VALUES = st.fixed_dictionaries({}, optional={f.name: strategy(f.name, f.default) for f in fields(Recipe)})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(VALUES)
def test_what_is_written_is_read_back(tmp_path: Path, values: dict[str, Any]) -> None:
    try:
        recipe = Recipe(**values)
    except ComqError:
        return  # some fields do not go together
    write_recipe(recipe, tmp_path / "recipe.toml")
    assert Recipe(**read_recipe(tmp_path / "recipe.toml")) == recipe


@pytest.mark.parametrize("field", [f.name for f in fields(Recipe)])
def test_every_field_is_written_by_its_flag(field: str, tmp_path: Path) -> None:
    default = Recipe.__dataclass_fields__[field].default
    other = {
        bool: not default, int: 7, float: 2.5, str: "x:1x3", tuple: ("a=int8:32", "b=float")
    }[type(default)]  # fmt: skip
    if field in CHOICES:
        other = next(value for value in CHOICES[field] if value != default)
    special = {"target_size": "0.2x", "max_drop": "0.5%", "preprocess": "imagenet,colour=bgr"}
    other = {**special, "shards": 4, "dask": "local:2"}.get(field, other)
    more = {"twin_ranges": {"activations": "int8"}, "metric": {"max_drop": "0.5%"}}.get(field, {})
    recipe = Recipe(**{field: "cuda:1" if field == "device" else other}, **more)
    path = tmp_path / "recipe.toml"
    write_recipe(recipe, path)
    assert set(tomllib.loads(path.read_text())) == {key_of(name) for name in (field, *more)}
    assert Recipe(**read_recipe(path)) == recipe


def test_defaults_are_a_comment_alone() -> None:
    (line,) = as_toml(Recipe()).splitlines()
    assert line.startswith("# comq-onnx ")


def test_keys_are_spelled_as_flags_are(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'block_size = 32\nfirst-last = "int8"\nmemory = "2GiB"\nrule = ["head=int8"]\nkeep-float = ["a"]\n'
    )
    assert read_recipe(path) == {
        "block_size": "32",
        "first_last": "int8",
        "memory_gib": 2.0,
        "rules": ("head=int8",),
        "keep_float": ("a",),
    }
    path.write_text("block-size = -1\nmemory = 3\n")
    assert read_recipe(path) == {"block_size": "channel", "memory_gib": 3.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wieghts = 'int4'", "wieghts: it is no field of a recipe; did you mean weights"),
        ("calibration-data = 'x.npz'", "it is no field"),
        ("[quantize]\nweights = 'int4'", "quantize: it is no field of a recipe"),
        ("block-size = '32'\nblock_size = '64'", "block_size: it is set twice"),
        ("weights = 4", "weights: 4 is not text"),
        ("weights = 'int1'", "weights: 'int1' is not a value of it; use one of int4"),
        ("symmetric = 1", "symmetric: 1 is not true or false"),
        ("threads = true", "threads: True is not a whole number"),
        ("threads = 1.5", "threads: 1.5 is not a whole number"),
        ("rule = 'head=int8'", "rule: 'head=int8' is not a list of texts"),
        ("rule = [1]", "rule: [1] is not a list of texts"),
        ("memory = 'much'", "memory: 'much' is not a size"),
        ("memory = nan", "memory: nan is not a number"),
        ("memory = -1", "memory: -1 is not a number"),
        ("block-size = 48", "block-size: '48' is not a value of it"),
        ("weights = int4", "it is no TOML"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_file_and_key(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ComqError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"--config {path}: ")
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ComqError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(ComqError, match="cannot be read"):
        read_recipe(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"weights = '\xff'")
    with pytest.raises(ComqError, match="it is no TOML"):
        read_recipe(tmp_path / "bytes.toml")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "model.onnx", "name it .toml"),
        (tmp_path / "none" / "recipe.toml", "cannot be written"),
    ):
        with pytest.raises(ComqError, match=words):
            write_recipe(Recipe(), path)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ComqError, match="cannot be written"):
        write_recipe(Recipe(), tmp_path / "folder.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.toml"]
