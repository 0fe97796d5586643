"""The command line in a report is one: the program reads the same recipe from it."""

import shlex
from pathlib import Path

import click
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from comq_onnx.cli import main
from comq_onnx.cli_recipe import as_recipe
from comq_onnx.evaluate.command import command_line, versions
from comq_onnx.recipe import CHOICES, Recipe
from comq_onnx.run.feeds.text import TextFile

PATTERNS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
FREE = {
    "avg_bits": st.floats(2, 32),
    "memory_gib": st.floats(0.125, 64),
    "calibration_samples": st.integers(1, 10**6),
    "batch_size": st.integers(1, 64),
    "threads": st.integers(0, 64),
    "seed": st.integers(0, 2**31),
    "device": st.sampled_from(["cpu", "cuda", "cuda:1"]),
    "target_size": st.sampled_from(["", "3MB", "0.2x"]),
    "mask_input": PATTERNS,
    "max_length": st.integers(0, 512),
    "preprocess": st.sampled_from(["", "imagenet", "tf,colour=bgr", "mean=0.5,0.4,0.3,std=1"]),
    "keep_float": st.lists(PATTERNS, max_size=3).map(tuple),
    "nodes_to_exclude": st.lists(PATTERNS, max_size=2).map(tuple),
    "rules": st.lists(st.sampled_from(["head=int8", "-a.* b=int4:32", "x'y$=float"]), max_size=2).map(tuple),
}
FLAGS = ("symmetric", "matmulnbits", "size_first", "reduce_range", "quantize_embeddings")
SAFE = {k: CHOICES[k] for k in ("weights", "solver", "effort", "target", "first_last", "block_size")}
RECIPES = st.fixed_dictionaries(
    {},
    optional={
        **FREE,
        **{name: st.booleans() for name in FLAGS},
        **{name: st.sampled_from(values) for name, values in SAFE.items()},
    },
).map(lambda fields: Recipe(**fields))


def parsed(line: str) -> tuple[Recipe, dict[str, object]]:
    """The recipe that the program makes of a command line, and its other arguments."""
    _, *words = shlex.split(line)
    command = main.commands["quantize"]
    with click.Context(main, info_name="comq-onnx") as parent:
        values = command.make_context("quantize", words, parent=parent).params
    fields = as_recipe({name: values.pop(name) for name in Recipe.__dataclass_fields__})
    return Recipe(**fields), values


@settings(deadline=None, max_examples=150)
@given(RECIPES)
def test_the_program_reads_the_recipe_again(recipe: Recipe) -> None:
    line = command_line(recipe, "/home/someone/secret/net.onnx", Path("/data/s.npz"), Path("/out/small.onnx"))
    found, others = parsed(line)
    assert found == recipe
    assert (others["model"], others["calibration_data"]) == (Path("net.onnx"), Path("s.npz"))
    assert others["output"] == Path("small.onnx")
    assert "secret" not in line


def test_what_was_no_file_has_a_name_that_stands_for_it() -> None:
    line = command_line(Recipe(), onnx.ModelProto(), {"x": [1]}, Path("o.onnx"))
    assert line == "comq-onnx model.onnx --calibration-data samples.npz -o o.onnx"
    assert command_line(Recipe(), "a b.onnx", None, Path("o.onnx")) == "comq-onnx 'a b.onnx' -o o.onnx"


def test_text_comes_with_its_tokenizer_and_code_with_its_name() -> None:
    line = command_line(Recipe(), "a.onnx", TextFile("/d/lines.txt", Path("/t/tok.json")), Path("o.onnx"))
    found, others = parsed(line)
    assert (others["calibration_data"], others["tokenizer"]) == (Path("lines.txt"), Path("tok.json"))
    assert found == Recipe()
    line = command_line(Recipe(), "a.onnx", shlex.split, Path("o.onnx"))
    assert parsed(line)[1]["calibration_data"] == Path("shlex:split")


def test_names_that_look_like_flags_are_files() -> None:
    _, others = parsed(command_line(Recipe(), Path("-q.onnx"), None, Path("--o.onnx")))
    assert (others["model"], others["output"]) == (Path("-q.onnx"), Path("--o.onnx"))


def test_versions_are_those_that_are_imported() -> None:
    import numpy
    import onnxruntime

    found = versions()
    assert found["numpy"] == numpy.__version__
    assert found["onnx"] == onnx.__version__
    assert found["onnxruntime"] == onnxruntime.__version__
    assert {"comq-onnx", "python", "platform"} <= set(found)
