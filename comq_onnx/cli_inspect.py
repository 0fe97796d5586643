"""``comq-onnx inspect``: what a file holds, and what each target would do with it."""

import json
import sys
from pathlib import Path

import click

from comq_onnx.cli_program import wide_console
from comq_onnx.errors import ComqError
from comq_onnx.faults import faults_explained
from comq_onnx.recipe import CHOICES

FAILED = 1


@click.command(short_help="Say what a file holds, and what each target would do with it.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(CHOICES["target"]),
    help="Only what this one would do; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all details.")
def inspect(model: Path, targets: tuple[str, ...], as_json: bool) -> None:
    """Say what an ONNX MODEL holds, what of it could be quantized, and what each target would do.

    The model is not run. Exit codes: 0 done, 1 the file cannot be read, 2 usage.
    """
    from comq_onnx.evaluate.contents_table import print_contents
    from comq_onnx.offers import inspect as contents_of

    try:
        with faults_explained():
            found = contents_of(model, targets)
    except ComqError as error:
        click.echo(f"comq-onnx: {error}", err=True)
        sys.exit(FAILED)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
    else:
        print_contents(found, wide_console())
