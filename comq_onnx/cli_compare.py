"""``comq-onnx compare``: two models side by side."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comq_onnx.cli_data import data_of
from comq_onnx.errors import ComqError

if TYPE_CHECKING:
    from comq_onnx.evaluate.comparison import Comparison

FAILED = 1
FILE = click.Path(path_type=Path)


@click.command(short_help="Hold one model against another: outputs, layers, size, speed.")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option(
    "--data",
    "--calibration-data",
    "--calibration-data-path",
    "data",
    type=FILE,
    help="As for quantizing: pictures, .npz, a text file, ...; inputs are made up without.",
)
@click.option("--preprocess", default="", metavar="SPEC", help="Of pictures and sounds, as for quantizing.")
@click.option("--tokenizer", type=FILE, help="tokenizer.json of the model, to feed a text file's lines.")
@click.option("--max-length", type=int, default=0, help="Tokens of a line [default: tokenizer's, or 128].")
@click.option("--samples", type=click.IntRange(min=1), default=64, show_default=True, help="At most.")
@click.option(
    "--calibration-shapes", "shapes", default="", help="Of made-up inputs: x:1x3x224x224,ids:1x128."
)
@click.option("--metric", metavar="MODULE:CALLABLE", help="A score of your own; it is given the network.")
@click.option(
    "--classes", multiple=True, metavar="OUTPUT", help="Outputs that are logits, or none; repeatable."
)
@click.option(
    "--threshold",
    "threshold_db",
    type=float,
    default=20.0,
    show_default=True,
    help="SQNR in dB below which tensors have parted.",
)
@click.option("--layers/--no-layers", default=True, help="Find where the graphs part.")
@click.option("--latency/--no-latency", default=True, help="Measure the time of both.")
@click.option("--threads", type=click.IntRange(min=0), default=0, show_default=True, help="0 for all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    a: Path,
    b: Path,
    data: Path | None,
    tokenizer: Path | None,
    metric: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Hold the ONNX model B against A, on the same data, in onnxruntime.

    Twice: at exact settings, and as deployed, where low-bit kernels round activations. Exit codes: 0 they
    were compared, 1 they cannot be, 2 usage.
    """
    from rich.console import Console

    from comq_onnx.evaluate.compare import CompareOptions
    from comq_onnx.evaluate.compare import compare as compared
    from comq_onnx.progress import shown_on

    console = Console(stderr=True)
    try:
        with shown_on(console) if console.is_terminal else nullcontext(_silent) as progress:
            found = compared(a, b, data_of(data, tokenizer), metric, CompareOptions(**options), progress)
    except ComqError as error:
        click.echo(f"comq-onnx: {error}", err=True)
        sys.exit(FAILED)
    show(found, as_json)


def show(found: "Comparison", as_json: bool) -> None:
    """On stdout; that inputs were made up is said on stderr too, where JSON is read by a program."""
    from comq_onnx.cli_program import wide_console
    from comq_onnx.evaluate.compare_table import MADE_UP, print_comparison

    if not as_json:
        print_comparison(found, wide_console())
        return
    click.echo(json.dumps(found.as_dict(), indent=1))
    if found.synthetic:
        click.echo(f"comq-onnx: {found.data}. {MADE_UP}", err=True)


def _silent(stage: str, done: int, total: int) -> None:
    """No progress where nobody watches."""
