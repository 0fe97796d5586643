"""What the pages say can be done: commands are understood, some are run, links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from comq_onnx.cli import main

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "samples", "tests/gpu", "tools")  # not the whole checkout: environments may lie in it
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
PROGRAMS = ("comq-onnx ", "python tools/", "python samples/")
FENCE = re.compile(r"^```.*?^```\n?", re.MULTILINE | re.DOTALL)


def told(page: Path) -> list[str]:
    """Commands of a page's fenced and indented blocks; those joined by && or a pipe one by one."""
    lines = page.read_text(encoding="utf-8").splitlines()
    fenced, blocks = False, []
    for line in lines:
        fenced ^= line.startswith("```")
        if fenced or line.startswith("    "):
            blocks += re.split(r" (?:&&|\|) ", line.strip())
    return [command for command in blocks if command.startswith(PROGRAMS)]


COMMANDS = [(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in told(page)]


def understood(words: list[str]) -> click.Context:
    """The context of the command that the words name; click's error where it does not take them."""
    with main.make_context("comq-onnx", list(words)) as context:
        name, command, rest = main.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None
        assert command is not None
        return command.make_context(name, rest, parent=context)


def quoted(command: str) -> list[str]:
    """The words of a command as a shell has them, less a comment and optional parts in brackets."""
    return shlex.split(re.sub(r" \[--[a-z-]+\]", "", command), comments=True)


@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith("comq-onnx ")])
def test_commands_are_understood(command: str) -> None:
    if "[OPTIONS]" in command:  # a line of usage
        return
    assert understood(quoted(command)[1:]).params


@pytest.mark.parametrize(
    "command", ["--target x", "compare a.onnx", "check --targets ort m.onnx", "m.onnx -z"]
)
def test_wrong_commands_are_not(command: str) -> None:
    with pytest.raises(click.UsageError):
        understood(shlex.split(command))


@pytest.mark.parametrize("command", sorted({c for _, c in COMMANDS if c.startswith("python ")}))
def test_scripts_have_the_flags(command: str) -> None:
    """Read in the source: most scripts need packages of their own to start."""
    words = quoted(command)
    script = ROOT / words[1]
    source = script.read_text(encoding="utf-8")
    for name in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE):
        parts = [script.with_name(f"{name}.py"), *script.with_name(name).glob("*.py")]
        source += "".join(part.read_text(encoding="utf-8") for part in parts if part.is_file())
    for flag in (word.split("=")[0] for word in words[2:] if word.startswith("--")):
        assert f'"{flag}"' in source, f"{script.name} has no {flag}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: list[str] = []
    for title in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(f"{slug}-{n}" if (n := found.count(slug)) else slug)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"``.+?``|`[^`\n]+`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        aim = page if not name else page.parent / name
        assert aim.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(aim), f"{link}: no such heading"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index
    assert "(docs/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def shell(command: str, folder: Path) -> str:
    """What a command prints, with `comq-onnx` and `python` being these of the tests."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    words = quoted(command)
    start = [sys.executable, "-m", "comq_onnx"] if words[0] == "comq-onnx" else [sys.executable]
    done = subprocess.run(
        [*start, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_quick_start_is_run(tmp_path: Path) -> None:
    """Its commands on the glyphs: pictures, then arrays; text needs a model that takes it."""
    image = pytest.importorskip("PIL.Image")
    shutil.copy(ROOT / "samples" / "glyphs" / "glyphs.onnx", tmp_path / "model.onnx")
    with np.load(ROOT / "samples" / "glyphs" / "calibration.npz") as samples:
        pixels = samples["image"][:32]
    np.savez(tmp_path / "samples.npz", image=pixels)
    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(pixels):
        drawn = image.fromarray(np.rint(255 * picture[0]).astype(np.uint8))
        drawn.save(tmp_path / "photos" / f"{index:02}.png")
    commands = [c for c in told(ROOT / "docs" / "quickstart.md") if "--tokenizer" not in c]
    printed = [shell(c.replace("--preprocess imagenet", "--preprocess unit"), tmp_path) for c in commands]
    assert len(printed) >= 6
    assert "Written: model_int4.onnx" in printed[0]
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "B has 0.29x the bytes of A. Compared on 32 samples of photos/" in printed[1]


@pytest.mark.slow
def test_try_it_of_the_readme_is_run(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "samples" / "glyphs", tmp_path / "samples" / "glyphs")
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Try it")[1].split("\n## ")[0]
    commands = re.findall(r"comq-onnx samples/.*$", section, re.MULTILINE)
    commands += re.findall(r"python samples/[^`]*", section)
    assert len(commands) == 2
    assert "38 weights quantized, 0 kept float" in shell(commands[0], tmp_path)
    assert float(shell(commands[1], tmp_path).split()[0]) > 90
