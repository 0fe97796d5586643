"""The command line: parse, call, print. Heavy imports wait until a command runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from comq_onnx.cli_check import check
from comq_onnx.cli_compare import compare
from comq_onnx.cli_completion import completion_option, first_word
from comq_onnx.cli_data import data_of, data_options, show_preview
from comq_onnx.cli_inspect import inspect
from comq_onnx.cli_program import SETTINGS, Gibibytes, Program, wide_console
from comq_onnx.cli_recipe import default_output, recipe_of
from comq_onnx.cli_report import check_report_paths, write_reports
from comq_onnx.errors import ComqError
from comq_onnx.faults import faults_explained
from comq_onnx.interrupt import INTERRUPTED, leave, temporary_files_together, terminable
from comq_onnx.recipe import BLOCK_SIZES, Recipe

if TYPE_CHECKING:
    from comq_onnx.evaluate.report import Report
    from comq_onnx.planning import Plan

FAILED, STRICT = 1, 3
FILE = click.Path(path_type=Path)
SIZES = ", ".join(map(str, BLOCK_SIZES))
BLOCK_SIZE_HELP = f"Rows to a scale: auto (the target's choice), {SIZES}, channel (or -1), tensor."


def choice(*values: str, **settings: Any) -> dict[str, Any]:
    return {"type": click.Choice(values), "default": values[0], "show_default": True, **settings}


@click.group(cls=Program, context_settings=SETTINGS)
def main() -> None:
    """The program: `quantize`, and the commands that are added at the end of this module."""


@main.command("quantize", hidden=True)
@click.argument("model", type=click.Path(path_type=Path), shell_complete=first_word)
@click.option("-o", "--output", type=FILE, help="File to write [default: MODEL_int4.onnx].")
@click.option(
    "--weights", **choice("int4", "int8", "int6", "int5", "int3", "int2"), help="Width of the weights' codes."
)
@click.option("--solver", **choice("comq", "comq-paper", "gptq", "rtn"), help="comq, or a baseline.")
@click.option(
    "--effort", **choice("normal", "fast", "max"), help="How long comq searches; docs/solver.md has a table."
)
@click.option(
    "--activations",
    **choice("auto", "none", "int8", "dynamic"),
    help="8-bit activations too; auto is the target's choice.",
)
@click.option(
    "--calibration-method",
    **choice("mse", "minmax", "percentile", "entropy", "output-error"),
    help="How ranges of activations are chosen.",
)
@click.option(
    "--target",
    **choice("portable", "ort", "tensorrt", "openvino", "web", "fakequant"),
    help="Where the file will run.",
)
@click.option(
    "--high-precision-dtype", **choice("auto", "fp32", "fp16"), help="Type of what is not quantized."
)
@click.option("--matmulnbits", is_flag=True, help="Write onnxruntime's own low-bit operator (target ort).")
@click.option("--size-first", is_flag=True, help="Quantize even what then runs slower than in float.")
@click.option("--reduce-range", is_flag=True, help="7-bit codes in int8 weights, for x64 without VNNI.")
@click.option("--twin-ranges", is_flag=True, help="Two ranges for values behind Softmax and Gelu.")
@click.option("--block-size", default="auto", show_default=True, help=BLOCK_SIZE_HELP)
@click.option(
    "--bias",
    **choice("auto", "channel", "none", "position", "block"),
    help="Compensating bias; auto: channel, with comq only. position costs size.",
)
@click.option(
    "--inputs", **choice("auto", "quantized", "float"), help="Whose inputs layers are solved on; see README."
)
@click.option(
    "--mrecg", type=int, default=0, metavar="K", help="Solve K pairs of neighbouring layers together."
)
@click.option("--symmetric/--asymmetric", default=True, show_default=True, help="Or with a zero point.")
@click.option("--target-size", default="", help="Most bytes of the file: 12MB, or 0.2x; layers share them.")
@click.option("--avg-bits", type=float, default=0.0, help="Most bits for each weight, scales included.")
@click.option("--target-latency", default="", help="Most time for a batch: 5ms, or 0.8x the float model's.")
@click.option("--max-drop", default="", help="Smallest file within it: 0.5%; of fidelity, or of --metric.")
@click.option("--metric", default="", metavar="MODULE:CALLABLE", help="A score of your own for --max-drop.")
@click.option("--first-last", **choice("same", "int8"), help="Width of the first and the last layer.")
@click.option("--weight-form", **choice("auto", "dq"), help="dq: DequantizeLinear before Conv too (slow).")
@click.option("--quantize-embeddings", is_flag=True, help="Store Gather tables as int8.")
@data_options
@click.option("--nodes-to-quantize", multiple=True, metavar="REGEX", help="Only these nodes; repeatable.")
@click.option("--nodes-to-exclude", multiple=True, metavar="REGEX", help="Keep these float; repeatable.")
@click.option("--op-types-to-quantize", multiple=True, metavar="OP", help="Only these ops; repeatable.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="REGEX=WIDTH[:BLOCK]",
    help="Width of these nodes' weights: float, float16, int8, int6 to int2; the last match wins.",
)
@click.option(
    "--keep-float", multiple=True, metavar="REGEX", help="Keep these float, whatever rules say; repeatable."
)
@click.option(
    "--memory", "memory_gib", type=Gibibytes(), default=0.0, help="Bound, such as 2GB [default: half of all]."
)
@click.option("--shards", type=int, default=2, show_default=True, help="Parts of the samples summed apart.")
@click.option(
    "--dask",
    default="",
    metavar="ADDRESS",
    help="Sum and solve on a Dask cluster: tcp://HOST:8786, or local:4 for workers of its own.",
)
@click.option(
    "--device", default="auto", show_default=True, help="Where to solve: auto (the CPU), cpu, cuda, cuda:1."
)
@click.option("--threads", type=int, default=0, help="Same file for any number [default: all cores].")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what is sub-sampled.")
@click.option(
    "--resume",
    type=FILE,
    metavar="DIR",
    help="Keep solved layers there; run again to go on where it stopped.",
)
@click.option("--config", type=FILE, help="Read a recipe from this .toml file; flags win over it.")
@click.option("--save-config", type=FILE, help="Write the recipe to this .toml file.")
@click.option(
    "--report",
    "reports",
    type=FILE,
    multiple=True,
    help="Write the report to this .json or .html file; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop before calibration.")
@click.option(
    "--strict", is_flag=True, help="Exit with 3 if a weight stays float or falls back, or a check fails."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, no table.")
@completion_option()
@click.version_option(package_name="comq-onnx", prog_name="comq-onnx")
def quantize(
    model: Path,
    output: Path | None,
    calibration_data: Path | None,
    tokenizer: Path | None,
    preview_data: Path | None,
    resume: Path | None,
    reports: tuple[Path, ...],
    dry_run: bool,
    strict: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Quantize the weights of an ONNX MODEL after training, without backpropagation.

    Results go to stdout, progress to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 --strict not met,
    130 interrupted.
    """
    try:
        recipe = recipe_of(click.get_current_context(), options)
    except ComqError as error:
        fail(error)
    path = output or default_output(model, "mixed" if recipe.budgeted or recipe.max_drop else recipe.weights)
    before = identity(path)
    try:
        with faults_explained():
            data = data_of(calibration_data, tokenizer)
            if preview_data:
                show_preview(model, data, recipe, preview_data, wide_console())
                return
            if dry_run:
                show_plan(model, data, recipe)
                return
            check_report_paths(reports)
            with terminable(), temporary_files_together():
                report = run(model, path, data, (recipe, resume), quiet)
                write_reports(report, reports)
    except ComqError as error:
        fail(error)
    except KeyboardInterrupt:
        click.echo(f"comq-onnx: {interrupted(path, before, resume)}", err=True)
        leave(INTERRUPTED)
    if strict and report.blemishes:
        click.echo(f"comq-onnx: --strict: {'; '.join(report.blemishes)}", err=True)
        sys.exit(STRICT)


def fail(error: ComqError) -> NoReturn:
    click.echo(f"comq-onnx: {error}", err=True)
    sys.exit(FAILED)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that was there before; None for no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def interrupted(output: Path, before: tuple[int, int] | None, resume: Path | None) -> str:
    """What an interrupt came to, in one line."""
    if identity(output) != before:
        return f"interrupted; {output} is written."
    again = f"; run again with --resume {resume} to go on" if resume else ""
    return f"interrupted; nothing was written{again}."


def run(model: Path, output: Path, data: Any, how: tuple[Recipe, Path | None], quiet: bool) -> "Report":
    """Quantize with progress on stderr, then the table on stdout; `how` is the recipe and --resume."""
    from rich.console import Console

    from comq_onnx import pipeline
    from comq_onnx.evaluate.table import print_report
    from comq_onnx.progress import shown_on

    recipe, resume = how
    if quiet:
        return pipeline.quantize(model, output, data, recipe, resume=resume)
    with shown_on(Console(stderr=True)) as progress:
        report = pipeline.quantize(model, output, data, recipe, progress, resume)
    print_report(report, wide_console())
    return report


def show_plan(model: Path, data: Any, recipe: Recipe) -> None:
    """The layers, the size of the file, and what a run would take; without running the model."""
    from comq_onnx.evaluate.room import model_bytes
    from comq_onnx.evaluate.table import print_plan
    from comq_onnx.planning import plan as plan_of
    from comq_onnx.targets.size import file_bytes

    plan, console = plan_of(model, recipe, data is not None), wide_console()
    print_plan(plan.layers, plan.skipped, plan.grids, plan.notes, console, plan.halved)
    before = model_bytes(plan.source)
    after = file_bytes(plan.prepared, plan.layers, plan.grids, recipe, plan.placement, plan.halved)
    tell(f"File: {before:,} -> about {after:,} bytes ({after / before:.2f}x).", console)
    if recipe.bias in ("position", "block"):
        tell(f"The numbers of --bias {recipe.bias} come on top; how many they are is measured.", console)
    if plan.placement.values:
        text = (
            f"{len(plan.placement.values)} tensors would be stored in 8 bits; the time their ranges take, one"
        )
        tell(f"{text} pass over the data and eight samples for each tensor, is not counted here.", console)
    if recipe.budgeted or recipe.max_drop:
        text = f"The budget is not looked at here, this is {recipe.weights} throughout:"
        tell(f"{text} what it chooses, and the time that takes, is for a run to say.", console)
    if recipe.mrecg:
        tell("What --mrecg adds, in time, memory and node executions, is not counted here.", console)
    try:
        show_estimate(plan, data, recipe, console)
    except ComqError as error:
        if data is not None:
            raise
        tell(f"No estimate of memory and time: {error}", console)


def show_estimate(plan: "Plan", data: Any, recipe: Recipe, console: Any) -> None:
    from comq_onnx.evaluate.estimate import estimate
    from comq_onnx.evaluate.speed import measured_speed
    from comq_onnx.evaluate.table import print_estimate
    from comq_onnx.pipeline import inputs_for
    from comq_onnx.planning import open_data

    opened = open_data(plan, data, recipe)
    for note in opened.calibration.notes:
        tell(f"note: {note}", console)
    inputs, _ = inputs_for(opened, recipe)
    found = estimate(plan.prepared, plan.layers, plan.grids, opened.calibration, recipe, inputs)
    on_gpu = recipe.device.startswith("cuda")
    print_estimate(found, None if on_gpu else found.work.seconds(measured_speed(recipe.threads)), console)


def tell(text: str, console: Any) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


main.add_command(check)
main.add_command(compare)
main.add_command(inspect)
