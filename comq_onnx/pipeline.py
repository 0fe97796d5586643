"""The order of things: read `quantize` and you know the program."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import onnx

from comq_onnx.backends.engine import Engine, compiled, open_engine, single_threaded_blas
from comq_onnx.errors import ComqError
from comq_onnx.evaluate.remarks import remarks
from comq_onnx.evaluate.report import Report, layer_lines, model_bytes, skipped_line
from comq_onnx.evaluate.verify import FLOAT_RUNS, Verification, verify
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import Model, load, move_into_place, save, to_proto
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.graph.prepare import prepare
from comq_onnx.graph.share import share_equal_weights
from comq_onnx.graph.vocabulary import vocabulary
from comq_onnx.grid import Grid
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Layer, LayerReport, Problem, Skipped, Solution
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.specs import input_specs
from comq_onnx.solve.layer import cost, solve_layer
from comq_onnx.stats.collect import Collected, collect
from comq_onnx.targets import TARGETS
from comq_onnx.version import __version__

NOT_COMPILED = (
    "numba and SciPy are not both installed: solved in NumPy, which is slow; install the extra cpu."
)


class Progress(Protocol):
    """Told of each step: `stage` is a verb, `done` of `total` units of it are finished."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """The progress callback of a caller who does not want one."""


@dataclass(frozen=True)
class Plan:
    """What will be quantized and how, known before any sample is run."""

    source: onnx.ModelProto | Path
    prepared: onnx.ModelProto
    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...]
    grids: Mapping[str, Grid]
    notes: Mapping[str, str]
    """Why a layer's grid is not the one asked for, by layer name."""
    opset_before: int


@dataclass(frozen=True)
class Survey:
    """A plan and the statistics of one float pass; good for many recipes on the same model and data."""

    plan: Plan
    calibration: Calibration
    collected: Collected


@dataclass(frozen=True)
class Solved:
    """The solution of every layer, by name, and the time it took."""

    solutions: Mapping[str, Solution]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """A quantized model in memory, the solutions it holds, and a line for each of its weights."""

    model: onnx.ModelProto
    solutions: Mapping[str, Solution]
    lines: tuple[LayerReport, ...]


def quantize(
    model: str | Path | onnx.ModelProto,
    output: str | Path,
    data: Any = None,
    recipe: Recipe | None = None,
    progress: Progress = silent,
) -> Report:
    """Quantize `model` and write it to `output`, unless the result fails a check that makes it unusable.

    Parameters
    ----------
    model
        A path to an ``.onnx`` file, or a loaded model.
    output
        The file to write. It may not be `model`.
    data
        Calibration samples: a path (``.npz``, ``.npy`` or a folder of them), a dict of stacked arrays, an
        iterable of dicts, an onnxruntime ``CalibrationDataReader``; None for synthetic inputs.
    recipe
        How to quantize; ``Recipe()`` is the advice of the tool.
    progress
        Called with ``(stage, done, total)``.

    Raises
    ------
    ComqError
        Whatever the user can put right, in one sentence.
    """
    recipe, started = recipe or Recipe(), time.monotonic()
    path = check_output(model, Path(output))
    survey_ = survey(model, data, recipe, progress)
    outcome = finish(survey_, recipe, progress)
    with tempfile.TemporaryDirectory(prefix=".comq-", dir=path.parent) as scratch:
        draft = Path(scratch) / path.name
        written = save(outcome.model, draft)
        progress("verify", 0, 1)
        checks = verify_written(draft, survey_, outcome, recipe)
        progress("verify", 1, 1)
        files = move_into_place(written, path.parent)
    return make_report(recipe, survey_, outcome, checks, files, time.monotonic() - started)


def plan(model: str | Path | onnx.ModelProto, recipe: Recipe) -> Plan:
    """Load, prepare and look: every weight becomes a layer with a grid, or is skipped with its reason."""
    target = TARGETS[recipe.target]
    loaded = load(model)
    before = loaded.opset
    ready = prepare(loaded, target.required_opset(loaded, recipe))
    layers, skipped = find_layers(ready, recipe)
    if not layers:
        why = "; ".join(sorted({s.reason for s in skipped})) or "it has no weight of rank 2 or more"
        raise ComqError(
            f"no layer can be quantized: {why}",
            where=describe(model),
            fix="inspect the model or widen the selection",
        )
    grids, notes = choose_grids(layers, recipe)
    source = model if isinstance(model, onnx.ModelProto) else Path(model)
    return Plan(source, to_proto(ready), tuple(layers), tuple(skipped), grids, notes, before)


def survey(
    model: str | Path | onnx.ModelProto, data: Any, recipe: Recipe, progress: Progress = silent
) -> Survey:
    """Plan, then run the float model once over the samples and sum what its layers see."""
    progress("read", 0, 1)
    plan_ = plan(model, recipe)
    progress("read", 1, 1)
    ready = load(plan_.prepared)
    calibration = open_calibration(data, input_specs(plan_.prepared), recipe, vocabulary(ready))
    told = partial(progress, "calibrate")
    engine = open_engine(recipe.device, recipe.threads)
    device = recipe.device if recipe.device.startswith("cuda") else "cpu"
    collected = collect(ready, plan_.layers, calibration, recipe, told, engine, device)
    return Survey(plan_, calibration, collected)


def finish(survey_: Survey, recipe: Recipe, progress: Progress = silent) -> Outcome:
    """Solve every layer and write the solutions into a copy of the prepared graph."""
    return write(survey_, solve_all(survey_, recipe, progress), recipe)


def solve_all(survey_: Survey, recipe: Recipe, progress: Progress = silent) -> Solved:
    """Codes, scales and biases of every layer."""
    plan_ = survey_.plan
    model, engine = load(plan_.prepared), open_engine(recipe.device, recipe.threads)
    grids, _ = choose_grids(plan_.layers, recipe)
    solutions: dict[str, Solution] = {}
    seconds: dict[str, float] = {}
    progress("solve", 0, len(plan_.layers))

    def timed(work: tuple[Layer, Engine]) -> tuple[str, Solution, float]:
        layer, mine = work
        started, stats = time.monotonic(), survey_.collected.stats[layer.name]
        solution = solve(model, layer, stats, grids[layer.name], (recipe, mine))
        return layer.name, solution, time.monotonic() - started

    work = sorted(plan_.layers, key=lambda layer: -cost(layer.layout))
    share = sum(cost(layer.layout) for layer in work) / engine.threads
    large = [layer for layer in work if cost(layer.layout) > share]
    with single_threaded_blas():
        # A layer that is more than a thread's share has all threads; others go side by side, longest first.
        alone = map(timed, [(layer, engine) for layer in large])
        beside = engine.map(timed, [(layer, replace(engine, threads=1)) for layer in work[len(large) :]])
        for name, solution, spent in chain(alone, beside):
            solutions[name], seconds[name] = solution, spent
            progress("solve", len(solutions), len(plan_.layers))
    return Solved({layer.name: solutions[layer.name] for layer in plan_.layers}, seconds)


def write(survey_: Survey, solved: Solved, recipe: Recipe) -> Outcome:
    """Put the solutions into a copy of the prepared graph; the codes are not rounded again."""
    plan_ = survey_.plan
    model = load(plan_.prepared)
    _, notes = choose_grids(plan_.layers, recipe)
    written = TARGETS[recipe.target].rewrite(model, plan_.layers, solved.solutions, recipe)
    share_equal_weights(model)
    lines = layer_lines(plan_.layers, solved.solutions, written, notes, solved.seconds)
    lines += tuple(skipped_line(s) for s in plan_.skipped)
    return Outcome(stamp(to_proto(model), survey_.calibration, recipe), solved.solutions, lines)


def solve(
    model: Model, layer: Layer, stats: InputStats | None, grid: Grid, how: tuple[Recipe, Engine]
) -> Solution:
    """One layer's codes, scales and bias. An embedding meets one-hot inputs, for which rounding is best."""
    recipe, engine = how
    weight = to_rows(weight_values(model, layer), layer.layout)
    if layer.op == "Gather":
        return solve_layer(Problem(weight, None, grid, layer.dtype), "rtn", compensate=False, engine=engine)
    problem = Problem(weight, stats, grid, layer.dtype)
    return solve_layer(problem, recipe.solver, recipe.compensate, recipe.effort, engine)


def choose_grids(layers: Sequence[Layer], recipe: Recipe) -> tuple[dict[str, Grid], dict[str, str]]:
    """The grid of every layer, and why it is not the one asked for where it is not."""
    target = TARGETS[recipe.target]
    inner = [layer.name for layer in layers if layer.op != "Gather"]
    wide = {inner[0], inner[-1]} if recipe.first_last == "int8" and inner else set()
    grids: dict[str, Grid] = {}
    notes: dict[str, str] = {}
    for layer in layers:
        bits = 8 if layer.name in wide or layer.op == "Gather" else recipe.bits
        grids[layer.name], note = target.grid(layer, recipe, bits)
        if note:
            notes[layer.name] = note
    return grids, notes


def stamp(model: onnx.ModelProto, calibration: Calibration, recipe: Recipe) -> onnx.ModelProto:
    """Write how the model was made into its metadata. No paths: files travel."""
    kind = "synthetic" if calibration.synthetic else "given"
    entries = {
        "comq.version": __version__,
        "comq.recipe": recipe.as_json(),
        "comq.calibration": f"{kind}, {calibration.samples} samples",
    }
    kept = [p for p in model.metadata_props if p.key not in entries]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return model


def check_output(model: str | Path | onnx.ModelProto, output: Path) -> Path:
    """Find out before the work, not after it, that the output cannot be written."""
    source = None if isinstance(model, onnx.ModelProto) else Path(model)
    if source and source.exists() and output.exists() and output.samefile(source):
        raise ComqError("the output is the input", where=str(output), fix="give -o another name")
    if output.is_dir():
        raise ComqError("the output is a folder", where=str(output), fix="name a file in it")
    if not output.parent.is_dir():
        raise ComqError("the output's folder does not exist", where=str(output.parent), fix="create it first")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise ComqError(
            f"the output's folder cannot be written to ({error.strerror})",
            where=str(output.parent),
            fix="choose another folder for -o",
        ) from None
    return output


def describe(model: str | Path | onnx.ModelProto) -> str:
    return "the model" if isinstance(model, onnx.ModelProto) else str(model)


def verify_written(draft: Path, survey_: Survey, outcome: Outcome, recipe: Recipe) -> Verification:
    """Check the written bytes; a file that does not load or holds other codes is never put in place."""
    plan_ = survey_.plan
    checks = verify(
        draft, plan_.source, plan_.layers, outcome.solutions, survey_.calibration, TARGETS[recipe.target]
    )
    fatal = [check for check in checks.checks if check.fatal and not check.ok]
    if fatal and survey_.calibration.synthetic and fatal[0].name == FLOAT_RUNS:
        raise ComqError(
            f"the float model itself does not run on made-up inputs ({fatal[0].detail})",
            where=describe(plan_.source),
            fix="give --calibration-data",
        )
    if fatal:
        raise ComqError(
            f"the result fails its check '{fatal[0].name}' ({fatal[0].detail}), so it was not written",
            where=describe(plan_.source),
            fix="try another --target, or exclude the layer named here with --nodes-to-exclude",
        )
    return checks


def make_report(
    recipe: Recipe,
    survey_: Survey,
    outcome: Outcome,
    checks: Verification,
    files: Sequence[Path],
    seconds: float,
) -> Report:
    """Everything that happened, for the table and for ``--report``."""
    plan_ = survey_.plan
    return Report(
        version=__version__,
        recipe=recipe.as_dict(),
        target=recipe.target,
        files=tuple(str(f) for f in files),
        bytes_before=model_bytes(plan_.source),
        bytes_after=sum(f.stat().st_size for f in files),
        opset_before=plan_.opset_before,
        opset_after=load(outcome.model).opset,
        calibration=survey_.calibration.description,
        synthetic=survey_.calibration.synthetic,
        lines=outcome.lines,
        verification=checks,
        notes=(
            *remarks(outcome.lines, recipe, survey_.calibration, checks),
            *survey_.collected.notes,
            *([] if compiled() or recipe.device.startswith("cuda") else [NOT_COMPILED]),
        ),
        seconds=seconds,
    )
