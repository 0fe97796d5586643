"""docs/cli.md says what the code says."""

import cli_reference
import click

from comq_onnx.cli import main


def test_the_page_is_current() -> None:
    assert cli_reference.PAGE.read_text(encoding="utf-8") == cli_reference.page(), (
        "run: python tools/cli_reference.py"
    )


def test_every_flag_has_a_row() -> None:
    page = cli_reference.page()
    for name, command in main.commands.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        flags = [option.opts[-1] for option in command.params if isinstance(option, click.Option)]
        rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
        assert all(any(f"`{flag}" in row for row in rows) for flag in flags)
        assert len(rows) == len(flags) + 1  # --help
