"""Writes docs/cli.md: every command and flag of comq-onnx, from the code.

python tools/cli_reference.py           # write it
python tools/cli_reference.py --check   # exit with 1 if it is not current
"""

import argparse
import sys
from pathlib import Path

import click

from comq_onnx.cli import main as program
from comq_onnx.cli_program import SETTINGS

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
FIRST = "quantize"
"""What the program does where its first word is no command"""
INTRODUCTION = """# The command line

    comq-onnx model.onnx --calibration-data samples.npz -o model_int4.onnx
    comq-onnx compare model.onnx model_int4.onnx --data samples.npz
    comq-onnx check model_int4.onnx --target ort
    comq-onnx inspect model.onnx

The first word is a command, or the model to quantize; a file that has a command's name is written `./check`.
Flags may be written with underscores too. `python -m comq_onnx` is the same program. Results go to stdout,
progress to stderr; `NO_COLOR=1` in the environment turns colours off. Which flag for which wish:
[choosing.md](choosing.md); flags from a file, with `--config`: the keys of the TOML file are the flags' names
without the dashes.

This page is written by `tools/cli_reference.py`.
"""


def page() -> str:
    """The whole page."""
    names = [FIRST, *(name for name in sorted(program.commands) if name != FIRST)]
    return "\n".join([INTRODUCTION, *(_section(name, program.commands[name]) for name in names)])


HELP = "| `-h`, `--help` |  | Show this message and exit. |"


def _section(name: str, command: click.Command) -> str:
    words = "comq-onnx" if name == FIRST else f"comq-onnx {name}"
    context = click.Context(command, info_name=words, **SETTINGS)
    lines = [f"## {name}", "", f"    {_usage(command, context)}", ""]
    lines += [*_told(command), "", "| flag | default | meaning |", "|---|---|---|"]
    with context:
        options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        rows = [_row(option, context) for option in options]
    # Click makes the help flag on first use and keeps it, by whatever context that had.
    return "\n".join([*lines, *rows, HELP]) + "\n"


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([context.info_name or "", *command.collect_usage_pieces(context)])


def _told(command: click.Command) -> list[str]:
    """The help text, a paragraph a line."""
    parts = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    return "\n\n".join(parts).split("\n")


def _row(option: click.Option, context: click.Context) -> str:
    value, choices = "", ""
    if isinstance(option.type, click.Choice):
        choices = f" One of {', '.join(f'`{one}`' for one in option.type.choices)}."
    elif not (option.is_flag or option.count):
        value = f" {option.make_metavar(context)}"
    names = ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))
    return f"| {_cell(names)} | {_cell(_default(option, context))} | {_cell((option.help or '') + choices)} |"


def _default(option: click.Option, context: click.Context) -> str:
    """What `--help` shows, and no more: a default that is a stand-in is told in the meaning."""
    found = option.get_help_extra(context).get("default", "")
    return f"`{found}`" if found else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/cli.md from the code.")
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    if parser.parse_args().check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/cli.md is not current; run: python tools/cli_reference.py")
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
