"""Every `comq-onnx` command of the pages is run, on small models and data that bear the names it uses."""

import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from documented import ANY_SIZE, PICTURES, SOUNDS, WORDS, model_of, write_lines, write_pictures, write_sounds
from test_docs import COMMANDS, quoted

import comq_onnx
from comq_onnx.cli import main
from comq_onnx.graph.io import save
from comq_onnx.run.tensorrt_ import tensorrt_missing

READY = {
    "model_int4": {"weights": "int4"},
    "model_int8": {"weights": "int8"},
    "model_w8a8": {"weights": "int8", "activations": "int8", "target": "ort"},
    "model_trt": {"target": "tensorrt"},
    "words_int4": {"weights": "int4"},
    "glyphs_int2": {"weights": "int2", "target": "ort"},
}
"""Files that one command of a page makes and another reads"""
RUN = sorted({c for page, c in COMMANDS if c.startswith("comq-onnx ") and "[OPTIONS]" not in c})
HERE = "samples/glyphs/"


WORLDS = {"--tokenizer": WORDS, "wavs": SOUNDS, "480x640": ANY_SIZE, "": PICTURES}
"""The model that a command with such a word is about"""


def make_world(folder: Path, text: str) -> None:
    """A folder with one kind of model, its data, and its quantized files."""
    source, ready = folder / "model.onnx", dict(READY) if text is PICTURES else {}
    save(model_of(text), source)
    if text is PICTURES:
        shutil.copy(source, folder / "glyphs.onnx")
    if text is WORDS:
        shutil.copy(source, folder / "words.onnx")
        ready = dict.fromkeys(("model_int4", "words_int4"), READY["model_int4"])
    {WORDS: write_lines, SOUNDS: write_sounds}.get(text, write_pictures)(folder)
    for made, fields in ready.items():
        comq_onnx.quantize(source, folder / f"{made}.onnx", **{"solver": "rtn", **fields})


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by the word in a command that asks for them."""
    found = {word: tmp_path_factory.mktemp("world") for word in WORLDS}
    for word, text in WORLDS.items():
        make_world(found[word], text)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN, ids=str)
def test_commands_are_run(
    command: str, worlds: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--build" in command and (missing := tensorrt_missing()):
        pytest.skip(missing)
    if "cuda" in command:
        pytest.skip("tests/gpu runs what takes a GPU")
    world = next(word for word in WORLDS if word in command)
    shutil.copytree(worlds[world], tmp_path, dirs_exist_ok=True)
    words = [word.replace("tcp://scheduler:8786", "local:2") for word in quoted(command)[1:]]
    if any(HERE in word for word in words):
        shutil.copytree(Path(__file__).parents[1] / HERE, tmp_path / HERE)
    before = set(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mydata", "my_scores", "top1"):  # other tests have modules of these names
        monkeypatch.delitem(sys.modules, name, raising=False)
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    asked = [tmp_path / words[place + 1] for place, word in enumerate(words) if word in ("-o", "--report")]
    assert all(path.stat().st_size > 0 for path in asked)
    assert result.output.strip()
    if "--dry-run" in words or words[0] in ("compare", "check", "inspect"):
        assert set(tmp_path.iterdir()) - {tmp_path / "__pycache__"} == before
