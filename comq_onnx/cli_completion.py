"""``--completion``: the script that teaches a shell the flags, and what it is told of the first word."""

import glob
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "comq-onnx"
VARIABLE = "_COMQ_ONNX_COMPLETE"
"""Set by the script where the shell asks; click answers then"""


def show_script(context: click.Context, _: click.Parameter, shell: str | None) -> None:
    """Print the script for `shell` and stop, where one is asked for."""
    made = get_completion_class(shell) if shell and not context.resilient_parsing else None
    if made is None:
        return
    click.echo(made(context.find_root().command, {}, PROGRAM, VARIABLE).source())
    context.exit()


def first_word(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files, by the shell's own rules; and commands, where the word begins like one.

    bash takes no files of its own besides words that are given, so then the files are given too.
    """
    program = context.find_root().command
    names = program.commands if isinstance(program, click.Group) else {}
    commands = [name for name, command in names.items() if incomplete and name.startswith(incomplete)]
    commands = [name for name in commands if not names[name].hidden]
    if not commands:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(word) for word in (*commands, *sorted(glob.glob(f"{glob.escape(incomplete)}*")))]


def completion_option() -> Any:
    """The decorator that adds the flag."""
    return click.option(
        "--completion",
        type=click.Choice(SHELLS),
        is_eager=True,
        expose_value=False,
        callback=show_script,
        help='Print the shell\'s completion script: eval "$(comq-onnx --completion bash)".',
    )
