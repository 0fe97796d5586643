"""``comq-onnx compare``: two models side by side."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comq_onnx.cli_data import data_of, feeding_options
from comq_onnx.errors import ComqError
from comq_onnx.faults import faults_explained

if TYPE_CHECKING:
    from comq_onnx.evaluate.comparison import Comparison

FAILED = 1
FILE = click.Path(path_type=Path)


@click.command(short_help="Hold one model against another: outputs, layers, size, speed.")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@feeding_options
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
    calibration_data: Path | None,
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
    from comq_onnx.spec_files import spec_of

    console = Console(stderr=True)
    try:
        options["preprocess"] = spec_of(options["preprocess"])
        shown = shown_on(console) if console.is_terminal else nullcontext(_silent)
        with faults_explained(), shown as progress:
            data = data_of(calibration_data, tokenizer)
            found = compared(a, b, data, metric, CompareOptions(**options), progress)
    except ComqError as error:
        click.echo(f"comq-onnx: {error}", err=True)
        sys.exit(FAILED)
    show(found, as_json)


def show(found: "Comparison", as_json: bool) -> None:
    """On stdout; that inputs were made up, or how they were prepared, is said on stderr too beside JSON."""
    from comq_onnx.cli_program import wide_console
    from comq_onnx.evaluate.compare_table import MADE_UP, print_comparison

    if not as_json:
        print_comparison(found, wide_console())
        return
    click.echo(json.dumps(found.as_dict(), indent=1))
    if found.synthetic:
        click.echo(f"comq-onnx: {found.data}. {MADE_UP}", err=True)
    for note in found.data_notes:
        click.echo(f"comq-onnx: {note}", err=True)


def _silent(stage: str, done: int, total: int) -> None:
    """No progress where nobody watches."""
