"""The command in a shell: completion as bash asks for it, colour on terminals alone, the ways to start it."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from graphs import model, weight

ROOT = Path(__file__).parents[1]
COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|9[0-7])[;m]")
ASK = """
eval "$(comq-onnx --completion bash)"
complete -p comq-onnx
COMP_WORDS=({words}); COMP_CWORD={at}
_comq_onnx_completion comq-onnx 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(model("g (float[B,64] x) => (float[B,16] y) { y = MatMul(x, w) }", w=weight(64, 16)), path)
    return path


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}


def completed(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words, by the script that the program prints."""
    shim = folder / "bin" / "comq-onnx"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m comq_onnx "$@"\n')
    shim.chmod(0o755)
    script = ASK.format(words=" ".join(f"'{word}'" for word in ("comq-onnx", *words)), at=len(words))
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=folder,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
    )
    first, *offered = done.stdout.splitlines()
    assert first.startswith("complete "), done.stderr
    assert first.endswith("_comq_onnx_completion comq-onnx")
    return [word for word in offered if word]


def on_terminal(words: list[str], **more: str) -> str:
    """What a program writes to the terminal that it has for all its output."""
    leader, follower = pty.openpty()
    running = subprocess.Popen(words, stdout=follower, stderr=follower, env=environment(**more))
    os.close(follower)
    told = b""
    try:
        while part := os.read(leader, 65536):
            told += part
    except OSError:  # Linux says so at the end
        pass
    finally:
        os.close(leader)
    assert running.wait() == 0
    return told.decode()


def command(net: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "comq_onnx",
        str(net),
        "--solver",
        "rtn",
        "--target",
        "ort",
        "-o",
        str(net.with_name("o.onnx")),
    ]


def test_bash_completes_flags_values_and_commands(tmp_path: Path) -> None:
    assert completed(tmp_path, "--calibration-d") == ["--calibration-data", "--calibration-data-path"]
    widths = completed(tmp_path, "net.onnx", "--weights", "int")
    assert widths == ["int4", "int8", "int6", "int5", "int3", "int2"]
    assert completed(tmp_path, "check", "net.onnx", "--list") == ["--list-rules"]
    assert completed(tmp_path, "ch") == ["check"]
    (tmp_path / "chess.onnx").touch()
    assert completed(tmp_path, "ch") == ["check", "chess.onnx"]
    # Nothing of ours: bash then offers files.
    assert completed(tmp_path, "ne") == []
    assert completed(tmp_path, "net.onnx", "--report", "r") == []


@pytest.mark.parametrize(("shell", "words"), [("zsh", "#compdef comq-onnx"), ("fish", "--command comq-onnx")])
def test_scripts_of_other_shells(shell: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "comq_onnx", "--completion", shell],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in done.stdout
    assert "_COMQ_ONNX_COMPLETE=" in done.stdout


def test_an_unknown_shell_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "comq_onnx", "--completion", "tcsh"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr


def test_a_terminal_has_colour_unless_it_is_not_wanted(net: Path) -> None:
    told = on_terminal(command(net))
    assert COLOUR.search(told)
    assert re.search(r"\x1b\[32mok +valid ONNX", told)
    plain = on_terminal(command(net), NO_COLOR="1")
    assert not COLOUR.search(plain)
    assert "ok   valid ONNX" in plain
    assert "\x1b[3" not in on_terminal(command(net), TERM="dumb")


def test_what_is_not_a_terminal_has_no_escapes(net: Path) -> None:
    done = subprocess.run(command(net), env=environment(), capture_output=True, text=True, check=True)
    assert "valid ONNX" in done.stdout
    assert "solve" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_the_version_either_way() -> None:
    from comq_onnx import __version__

    done = subprocess.run(
        [sys.executable, "-m", "comq_onnx", "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"comq-onnx, version {__version__}\n"
