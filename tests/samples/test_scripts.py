"""Every script of `samples` runs as its README says, and shows what it is there to show.

Real models lie in packages that this project does not need; where one is missing, its sample says what to
install, and its test is skipped with those words.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from processor import adds_in_16_bits

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
SCRIPTS = sorted(SAMPLES.glob("*/*.py"))


def run(name: str, folder: Path) -> str:
    """What a sample prints, run in `folder`; skips with its own words where something is not installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    script = [sys.executable, str(SAMPLES / name)]
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 1 and "pip install" in done.stderr and "Traceback" not in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(printed: str, pattern: str) -> dict[str, float]:
    """The first word of each line that `pattern` is found in, and the number that it holds."""
    lines = ((line, re.search(pattern, line)) for line in printed.splitlines())
    return {line.split()[0]: float(found[1]) for line, found in lines if found}


def needs(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.parent.name}/{script.name}")
def test_a_script_is_short_and_its_folder_explains_it(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) < 40
    readme = (script.parent / "README.md").read_text(encoding="utf-8")
    assert script.name in readme
    assert f"[{script.parent.name}/]({script.parent.name}/)" in (SAMPLES / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_tensorrt(tmp_path: Path) -> None:
    printed = run("tensorrt/make.py", tmp_path)
    right = numbers(printed, r"top-1 ([\d.]+) %")
    assert right["glyphs_trt.onnx"] > right["glyphs.onnx"] - 2
    assert "0 rules of TensorRT broken" in printed
    for command in ("--stronglyTyped", "--exportLayerInfo"):
        assert command in printed
    if find_spec("tensorrt_rtx") and not find_spec("tensorrt"):
        assert "glyphs_trt.plan: " in run("tensorrt/build_engine.py", tmp_path)


def test_the_engine_builder_says_what_is_missing() -> None:
    assert "never run on a gpu" in (SAMPLES / "tensorrt" / "README.md").read_text(encoding="utf-8").lower()
    if find_spec("tensorrt") is None and find_spec("tensorrt_rtx") is None:
        script = [sys.executable, str(SAMPLES / "tensorrt" / "build_engine.py")]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "pip install tensorrt" in done.stderr


@pytest.mark.slow
@pytest.mark.openvino
def test_openvino(tmp_path: Path) -> None:
    printed = run("openvino/run.py", tmp_path)
    right, apart = numbers(printed, r"top-1 ([\d.]+) %"), numbers(printed, r"([\d.e-]+) from onnxruntime")
    assert set(right) == {"float", "w8", "w4", "w8a8"}
    assert min(right.values()) > right["float"] - 4
    assert max(apart[name] for name in ("float", "w8", "w4")) < 1e-4
    assert apart["w8a8"] < 0.1


@pytest.mark.slow
def test_image_classifier(tmp_path: Path) -> None:
    needs("skimage")
    if adds_in_16_bits():
        pytest.skip("the sample stores 8-bit codes in full: its products overflow without VNNI")
    run("image_classifier/export.py", tmp_path)
    same = numbers(run("image_classifier/classify.py", tmp_path), r"([\d.]+) % as in float")
    assert same["lite0.onnx"] == 100
    assert min(same.values()) > 90


@pytest.mark.slow
def test_text_recogniser(tmp_path: Path) -> None:
    needs("PIL")
    right = numbers(run("text_recogniser/read.py", tmp_path), r"(\d+) of 100 lines right")
    assert right["rounded"] < 20
    assert right["solved"] > right["float"] - 8


@pytest.mark.slow
def test_sentence_encoder(tmp_path: Path) -> None:
    run("sentence_encoder/export.py", tmp_path)
    printed = run("sentence_encoder/encode.py", tmp_path)
    found, cosine = numbers(printed, r"([\d.]+) % of halves"), numbers(printed, r"to float ([\d.]+)")
    assert found["int4"] > found["float"] - 3
    assert cosine["float"] == 1 > cosine["int8"] > 0.999
    assert cosine["int8"] > cosine["int4"] > cosine["int3"] > 0.9


@pytest.mark.slow
def test_speech_detector(tmp_path: Path) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed: apt-get install espeak-ng")
    right = numbers(run("speech_detector/detect.py", tmp_path), r"([\d.]+)% of \d+ windows right")
    assert right["rounded"] < right["float"] - 10
    assert right["solved"] > right["float"] - 3
