"""docs/data.md: its tables are those of the program, and its commands are understood."""

from pathlib import Path

import pytest

from comq_onnx.cli import main
from comq_onnx.preprocess import READERS
from comq_onnx.presets import PRESETS

TEXT = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = [line.split() for line in TEXT.splitlines() if line.startswith("    comq-onnx ")]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_their_numbers(name: str):
    preset = PRESETS[name]
    assert f"| `{name}` | `{preset.text}` | {preset.size or ''} | {preset.why} |" in TEXT


def test_every_key_is_in_a_table():
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    assert all(any(f"`{key}`" in row for row in rows) for key in READERS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_understood(words: list[str]):
    context = main.commands["quantize"].make_context("comq-onnx", words[1:])
    assert context.params["model"] == Path("model.onnx")
    assert context.params["calibration_data"] is not None
