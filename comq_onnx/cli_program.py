"""How the command line is read: commands, spellings, sizes."""

import sys
from typing import Any

import click

from comq_onnx.sizes import gibibytes


def hyphens(token: str) -> str:
    """Peers write flags with underscores: both spellings are one flag."""
    return token.replace("_", "-")


class Gibibytes(click.ParamType):
    """A size such as ``2GB``, ``1.5GiB`` or ``800MB``; a bare number is in GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return gibibytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Program(click.Group):
    """Quantizes, unless its first word is the name of another command; a file of that name is ``./check``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = args[:1] and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if known else ["quantize", *args])

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Help on quantizing, and the other commands."""
        command = self.commands["quantize"]
        formatter.write_usage(ctx.command_path, "[OPTIONS] MODEL")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="   or: ")
        command.format_help_text(ctx, formatter)
        command.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


SETTINGS: dict[str, Any] = {
    "token_normalize_func": hyphens,
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
}


def wide_console() -> Any:
    """Stdout; when it is not a terminal, wide enough that no cell is cut."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)
