"""Calibration data on the command line: what a user types, end to end."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from graphs import model, weight
from PIL import Image
from scipy.io import wavfile
from tokenizers import Tokenizer, models, pre_tokenizers

from comq_onnx.cli import main
from comq_onnx.config import read_recipe

NET = """g (float[B,3,8,8] x) => (float[B,16] y) {
  f = Flatten(x)
  y = MatMul(f, w)
}"""
LINES = """g (int64[B,S] input_ids) => (float[B,S,16] y) {
  e = Gather(t, input_ids)
  y = MatMul(e, w)
}"""
SOUND = """g (float[B,500] x) => (float[B,16] y) {
  y = MatMul(x, w)
}"""


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(model(NET, w=weight(192, 16)), tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(24):
        pixels = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.jpg")
    return tmp_path / "net.onnx"


def test_a_folder_of_pictures_is_all_it_takes(net: Path):
    done = call(net, "--calibration-data", "photos", "--save-config", "recipe.toml", "--report", "r.json")
    assert done.exit_code == 0, done.stderr
    assert "24 samples of photos/" in done.stdout
    assert "NOTHING SAYS HOW PICTURES ARE NORMALISED" in done.stdout
    assert read_recipe(Path("recipe.toml")) == {}
    assert any("NOTHING SAYS" in note for note in json.loads(Path("r.json").read_text())["notes"])


def test_a_spec_is_kept_in_the_recipe_without_the_path_of_its_file(net: Path):
    Path("spec.toml").write_text('preset = "tf"\ncolour = "bgr"\n')
    words = (net, "--calibration-data", "photos", "--preprocess", "spec.toml", "--save-config", "recipe.toml")
    done = call(*words)
    assert done.exit_code == 0, done.stderr
    assert "8x8 BGR NCHW" in done.stdout
    assert "NOTHING SAYS" not in done.stdout
    assert read_recipe(Path("recipe.toml")) == {"preprocess": "tf,colour=bgr"}
    first = Path("net_int4.onnx").read_bytes()
    assert call(net, "--calibration-data", "photos", "--config", "recipe.toml").exit_code == 0
    assert Path("net_int4.onnx").read_bytes() == first


def test_code_of_the_users_by_name(net: Path):
    Path("mydata.py").write_text(
        "import numpy as np\n"
        "def make(inputs):\n"
        "    for i in range(8):\n"
        "        yield np.full([1, 3, 8, 8], i, np.float32), i\n"
    )
    done = call(net, "--calibration-data", "mydata:make")
    assert done.exit_code == 0, done.stderr
    assert "8 samples of 8 items of a generator" in done.stdout
    assert "left out" in done.stdout
    refused = call(net, "--calibration-data", "mydata:other")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("comq-onnx: --calibration-data: 'mydata' has no callable")


def test_a_config_names_no_data(net: Path):
    Path("recipe.toml").write_text('calibration-data = "mydata:make"\n')
    refused = call(net, "--config", "recipe.toml")
    assert refused.exit_code == 1
    assert "no field of a recipe" in refused.stderr


@pytest.fixture
def words(tmp_path: Path) -> Path:
    onnx.save(model(LINES, t=weight(6, 32), w=weight(32, 16)), tmp_path / "words.onnx")
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate("?abcde")}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "lines.txt").write_text("a b c\nb c d e\na\n" * 5)
    return tmp_path / "words.onnx"


def test_lines_of_text_and_their_tokenizer(words: Path):
    text, tokenizer = words.with_name("lines.txt"), words.with_name("tokenizer.json")
    given = (words, "--calibration-data", text, "--tokenizer", tokenizer, "--max-length", 3)
    done = call(*given)
    assert done.exit_code == 0, done.stderr
    assert "15 samples of lines.txt (15 lines, cut to 3 tokens)" in done.stdout
    shown = call(*given, "--preview-data")
    assert "fed: b c d" in shown.stdout
    for bad, said in (
        ((words, "--tokenizer", tokenizer), "there is no text to read with it"),
        ((words, "--calibration-data", text.parent, "--tokenizer", tokenizer), "this is a folder"),
        ((words, "--calibration-data", text), "say which with --tokenizer"),
    ):
        refused = call(*bad)
        assert refused.exit_code == 1
        assert said in refused.stderr


def test_a_folder_of_sounds(tmp_path: Path):
    onnx.save(model(SOUND, w=weight(500, 16)), tmp_path / "sound.onnx")
    (tmp_path / "wavs").mkdir()
    wavfile.write(tmp_path / "wavs" / "a.wav", 8000, weight(6000))
    done = call(
        tmp_path / "sound.onnx", "--calibration-data", tmp_path / "wavs", "--preprocess", "normalize=zscore"
    )
    assert done.exit_code == 0, done.stderr
    assert "12 samples of wavs/ (1 sounds, 12 windows at 8000 Hz)" in done.stdout


def test_a_preview_quantizes_nothing(net: Path):
    given = (net, "--calibration-data", "photos", "--preprocess", "unit")
    shown = call(*given, "--preview-data")
    assert shown.exit_code == 0
    assert "24 of 1x3x8x8" in shown.stdout
    before = set(net.parent.iterdir())
    for name, head in (("p.html", b"<!DOCTYPE html>"), ("p.png", b"\x89PNG")):
        done = call(*given, "--preview-data", name)
        assert done.exit_code == 0
        assert f"Written: {name}" in done.stdout
        assert Path(name).read_bytes().startswith(head)
    assert {p.name for p in set(net.parent.iterdir()) - before} == {"p.html", "p.png"}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("p.txt", "written as HTML or PNG"),
        ("no/p.png", "folder does not exist"),
        ("photos.html", "cannot be written"),
    ],
)
def test_a_preview_that_cannot_be_written_is_one_sentence(place: str, said: str, net: Path):
    Path("photos.html").mkdir()
    refused = call(net, "--calibration-data", "photos", "--preview-data", place)
    assert refused.exit_code == 1
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_wrong_specs_are_refused_before_the_work(net: Path):
    for spec, said in (("imagnet", "did you mean imagenet"), ("none.toml", "cannot be read")):
        refused = call(net, "--calibration-data", "photos", "--preprocess", spec)
        assert refused.exit_code == 1
        assert said in refused.stderr


def test_pictures_are_compared_as_they_calibrate(net: Path):
    Path("spec.toml").write_text('preset = "tf"\ncolour = "bgr"\n')
    fast = ("--no-latency", "--no-layers")
    done = call("compare", net, net, "--data", "photos", *fast, "--samples", 5)
    assert done.exit_code == 0, done.stderr
    assert "Compared on 5 samples of photos/ (24 pictures, fed as 8x8 RGB NCHW" in done.stdout
    assert "note: NOTHING SAYS HOW PICTURES ARE NORMALISED" in done.stdout
    flags = ("--calibration-data", "photos", "--preprocess", "spec.toml", "--calibration-samples", 6)
    done = call("compare", net, net, *flags, *fast)
    assert "Compared on 6 samples of photos/ (24 pictures, fed as 8x8 BGR NCHW" in done.stdout
    assert "note:" not in done.stdout
    done = call("compare", net, net, "--data", "photos", *fast, "--json")
    assert json.loads(done.stdout)["data_notes"]
    assert done.stderr.startswith("comq-onnx: NOTHING SAYS HOW PICTURES ARE NORMALISED")
    refused = call("compare", net, net, "--data", "photos", "--preprocess", "imagenett", *fast)
    assert refused.exit_code == 1
    assert "imagenett" in refused.stderr


def test_lines_of_text_are_compared_as_they_calibrate(words: Path):
    text, tokenizer = words.with_name("lines.txt"), words.with_name("tokenizer.json")
    given = ("compare", words, words, "--data", text, "--no-latency", "--no-layers")
    done = call(*given, "--tokenizer", tokenizer, "--max-length", 2)
    assert done.exit_code == 0, done.stderr
    assert "Compared on 15 samples of lines.txt (15 lines, cut to 2 tokens)." in done.stdout
    refused = call(*given)
    assert refused.exit_code == 1
    assert "say which with --tokenizer" in refused.stderr


def test_the_command_of_a_report_names_the_data_without_folders(words: Path):
    text, tokenizer = words.with_name("lines.txt"), words.with_name("tokenizer.json")
    flags = ("--calibration-data", text, "--tokenizer", tokenizer, "--max-length", 3)
    done = call(words, *flags, "--solver", "rtn", "--report", words.with_name("r.json"))
    assert done.exit_code == 0, done.stderr
    told = json.loads(words.with_name("r.json").read_text())["command"]
    for said in ("--calibration-data lines.txt", "--tokenizer tokenizer.json", "--max-length 3"):
        assert said in told
    assert str(words.parent) not in told


def test_the_command_of_a_report_names_the_preparation(net: Path):
    done = call(net, "--calibration-data", "photos", "--preprocess", "tf,colour=bgr", "--report", "r.json")
    assert done.exit_code == 0, done.stderr
    assert "--preprocess tf,colour=bgr" in json.loads(Path("r.json").read_text())["command"]
