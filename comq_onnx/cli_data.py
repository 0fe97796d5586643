"""Flags about calibration data, and what they name: files, text with its tokenizer, code of the user's."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comq_onnx.errors import ComqError

if TYPE_CHECKING:
    from comq_onnx.recipe import Recipe

FILE = click.Path(path_type=Path)
CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
SHOWN = (".html", ".png")
STDOUT = Path("-")
SOURCE = click.option(
    "--calibration-data",
    "--calibration-data-path",
    "--data",
    type=FILE,
    help="Pictures, .wav, .npz (a file or a folder), .pt, a text file, or module:callable; docs/data.md.",
)
SHAPES = click.option(
    "--calibration-shapes", default="", help="Of synthetic inputs: x:1x3x224x224,ids:1x128."
)
PREPARATION = (
    click.option(
        "--preprocess",
        default="",
        metavar="SPEC",
        help="Of pictures and sounds: a preset (imagenet, yolo, ...), key=value,..., or a .toml file.",
    ),
    click.option("--tokenizer", type=FILE, help="tokenizer.json of the model, to feed a text file's lines."),
    click.option(
        "--max-length", type=int, default=0, help="Tokens of a line [default: tokenizer's, or 128]."
    ),
)
OPTIONS = (
    SOURCE,
    click.option("--calibration-samples", type=int, default=256, show_default=True, help="Samples at most."),
    SHAPES,
    click.option("--batch-size", type=int, default=1, show_default=True, help="Samples run together."),
    *PREPARATION,
    click.option(
        "--mask-input", default="", help="Input whose zeros mark padding [default: attention_mask]."
    ),
    click.option(
        "--preview-data",
        type=FILE,
        is_flag=False,
        flag_value=STDOUT,
        metavar="[FILE]",
        help="Show what would be fed, as a table or a .html or .png file, and stop.",
    ),
)
FEEDING = (
    SOURCE,
    click.option(
        "--samples",
        "--calibration-samples",
        "samples",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        help="Samples at most.",
    ),
    SHAPES,
    *PREPARATION,
)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags about calibration data, for a command."""
    return _with(OPTIONS, command)


def feeding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those of them that say what models are run on, for a command that does not calibrate."""
    return _with(FEEDING, command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def data_of(path: Path | None, tokenizer: Path | None) -> Any:
    """What ``--calibration-data`` and ``--tokenizer`` name together.

    ``module:callable`` is imported here and nowhere else, as the user who runs the command names it. A file
    of that name goes first.
    """
    if path is None:
        if tokenizer is None:
            return None
        raise ComqError(
            "there is no text to read with it",
            where="--tokenizer",
            fix="give --calibration-data, a text file",
        )
    if tokenizer is not None:
        from comq_onnx.run.feeds.text import TextFile

        if path.is_dir():
            raise ComqError(
                "a tokenizer reads a text file, and this is a folder", where=str(path), fix="name one file"
            )
        return TextFile(path, tokenizer)
    if CALLABLE.fullmatch(str(path)) and not path.exists():
        from comq_onnx.run.user_code import load_callable

        return load_callable(str(path), "--calibration-data")
    return path


def check_preview_path(path: Path) -> None:
    """ComqError where no preview can be written to a file of this name."""
    if path == STDOUT:
        return
    if path.suffix not in SHOWN:
        raise ComqError(
            "a preview is written as HTML or PNG",
            where=f"--preview-data {path}",
            fix="name it .html or .png, or put the flag last to see a table",
        )
    if not path.parent.is_dir():
        raise ComqError("its folder does not exist", where=f"--preview-data {path}", fix="create it first")


def show_preview(model: Path, data: Any, recipe: "Recipe", path: Path, console: Any) -> None:
    """Say what would be fed, on `console`; also as a file, unless `path` is ``-``."""
    from comq_onnx.evaluate.preview import preview
    from comq_onnx.evaluate.preview_page import contact_sheet, page
    from comq_onnx.evaluate.preview_table import print_preview
    from comq_onnx.interrupt import put_whole

    check_preview_path(path)
    found = preview(model, data, recipe)
    print_preview(found, console)
    if path == STDOUT:
        return
    made = page(found).encode() if path.suffix == ".html" else contact_sheet(found)
    try:
        put_whole(path, made)
    except OSError as error:
        raise ComqError(
            f"it cannot be written ({error.strerror})",
            where=f"--preview-data {path}",
            fix="choose another file",
        ) from None
    console.print(f"Written: {path}", highlight=False, soft_wrap=True, markup=False)
