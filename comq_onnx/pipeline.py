"""The order of things: read `quantize` and you know the program."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import onnx

from comq_onnx.budgeting import settle_budget
from comq_onnx.distributed import check as check_cluster
from comq_onnx.distributed import solve_on_cluster
from comq_onnx.dropping import settle_drop
from comq_onnx.errors import ComqError, NotPairedError
from comq_onnx.evaluate.command import command_line
from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.verify import FLOAT_RUNS, Verification, verify
from comq_onnx.faults import faults_explained
from comq_onnx.fields import RecipeFields
from comq_onnx.frugal import within_memory
from comq_onnx.graph.cut import cut, refusal, uncuttable
from comq_onnx.graph.io import check_output, move_into_place, save
from comq_onnx.interrupt import held_back, temporary_folder
from comq_onnx.keywords import settled
from comq_onnx.layerwise import Solved
from comq_onnx.parallel import solve_all, survey
from comq_onnx.planning import Opened, Progress, describe, open_run, silent
from comq_onnx.recipe import Recipe
from comq_onnx.reporting import make_report
from comq_onnx.resume import Journal, check_folder, open_journal
from comq_onnx.sensitivity import settle
from comq_onnx.sequential import march
from comq_onnx.shelf import Shelf
from comq_onnx.smoothing import smoothed_run
from comq_onnx.twins import choose_twins
from comq_onnx.writing import Made, Outcome, stamp, write

PARALLEL = "layers were solved on the float network's inputs: "


def quantize(
    model: str | Path | onnx.ModelProto,
    output: str | Path,
    data: Any = None,
    recipe: Recipe | str | Path | None = None,
    progress: Progress = silent,
    resume: str | Path | None = None,
    **fields: Unpack[RecipeFields],
) -> Report:
    """Quantize `model` and write it to `output`, unless the result fails a check that makes it unusable.

    Parameters
    ----------
    model
        A path to an ``.onnx`` file, or a loaded model.
    output
        The file to write. It may not be `model`.
    data
        Calibration samples: a path (``.npz``, ``.npy``, ``.pt``, a folder of arrays, pictures or sounds), a
        `TextFile`, a dict of stacked arrays, an iterable of dicts or tuples such as a torch ``DataLoader``,
        an onnxruntime ``CalibrationDataReader``, or a function that gives any of them; None for synthetic
        inputs.
    recipe
        How to quantize, or a TOML file that says it; ``Recipe()`` is the advice of the tool.
    progress
        Called with ``(stage, done, total)`` as work goes on, such as ``("solve", 120, 4000)``; the units are
        a stage's own. What it raises ends the run, and nothing is written.
    resume
        A folder to keep solved layers in, and to take them from where an earlier run was broken off.
    fields
        Fields of `Recipe` as keywords, over those of `recipe`: ``weights="int8", target="ort"``.

    Raises
    ------
    ComqError
        Whatever the user can put right, in one sentence.
    """
    recipe, started = settled(recipe, fields), time.monotonic()
    with faults_explained():
        return _quantized(model, Path(output), data, (recipe, progress, resume), started)


def _quantized(
    model: str | Path | onnx.ModelProto,
    output: Path,
    data: Any,
    how: tuple[Recipe, Progress, str | Path | None],
    started: float,
) -> Report:
    """`quantize` with a recipe that is one."""
    recipe, progress, resume = how
    path = check_output(model, output)
    if recipe.dask:
        check_cluster(recipe)
    folder = _journal_folder(resume, recipe)
    opened = open_run(model, data, recipe, progress)
    allocation, asked = None, recipe
    if recipe.max_drop:
        made, allocation = settle_drop(opened, recipe, progress, make)
    else:
        smoothed, short = within_memory(
            opened, recipe, lambda opened, less: smoothed_run(opened, less, progress).plan
        )
        opened = replace(opened, plan=smoothed)
        if recipe.budgeted:
            opened, recipe, allocation = settle_budget(model, data, opened, recipe, progress)
        made = make(opened, recipe, progress, folder and open_journal(folder, opened, recipe))
        made = noted(made, short)
    opened, recipe, outcome = made.opened, made.recipe, made.outcome
    if asked is not recipe:
        outcome = replace(outcome, model=stamp(outcome.model, opened.calibration, asked))
    files, checks = put_in_place(path, opened, outcome, recipe, progress)
    report = make_report(recipe, opened, (made.solved, outcome, checks), files, time.monotonic() - started)
    told = command_line(asked, model, data, path)
    return replace(report, recipe=asked.as_dict(), allocation=allocation, command=told)


def make(opened: Opened, recipe: Recipe, progress: Progress = silent, journal: Journal | None = None) -> Made:
    """Solve as planned, and put the solutions into the graph; where memory runs out, with less at a time."""

    def attempt(opened: Opened, less: Recipe) -> Made:
        solved = solve_model(opened, less, progress, journal)
        opened, grids = settle(opened, solved, less, progress)
        twins = choose_twins(opened, solved, less, grids, progress)
        return Made(opened, recipe, solved, write(opened, solved, recipe, grids, twins))

    made, notes = within_memory(opened, recipe, attempt)
    return noted(made, notes)


def noted(made: Made, notes: Sequence[str]) -> Made:
    """With more to tell, each thing once."""
    return replace(
        made, solved=replace(made.solved, notes=tuple(dict.fromkeys((*notes, *made.solved.notes))))
    )


def _journal_folder(resume: str | Path | None, recipe: Recipe) -> Path | None:
    if resume is None:
        return None
    if recipe.mrecg:
        raise ComqError(
            "a pair of layers that is broken off between the two cannot be gone on with",
            where="--resume with --mrecg",
            fix="leave one of them out",
        )
    if recipe.max_drop:
        raise ComqError(
            "several networks are quantized, and a folder holds the layers of one",
            where="--resume with --max-drop",
            fix="leave one of them out",
        )
    return check_folder(Path(resume))


def solve_model(
    opened: Opened, recipe: Recipe, progress: Progress = silent, journal: Journal | None = None
) -> Solved:
    """Solve every layer: one after the other on the quantized network's inputs, or all on the float one's."""
    inputs, why = inputs_for(opened, recipe)
    outside = opened.plan.outside
    shelf = Shelf(outside, journal) if outside else None
    if inputs == "quantized":
        try:
            solved = solve_paired(opened, recipe, progress, journal, shelf)
        except NotPairedError as error:
            if recipe.inputs == "quantized":
                raise
            inputs, why = "float", (PARALLEL + error.what,)
            _check_inputs(inputs, why, recipe)
            for begun in (journal, shelf.journal if shelf is not None else None):
                if begun:
                    begun.clear()
            shelf = Shelf(outside, journal) if outside else None
    if inputs == "float" and recipe.dask:
        solved = solve_on_cluster(opened, recipe, False, progress, (journal, shelf))
    elif inputs == "float" and shelf is not None and not one_network_refusal(opened):
        solved = march(opened, recipe, progress, shelf=shelf, paired=False)
    elif inputs == "float":
        solved = solve_all(survey(opened, recipe, progress), recipe, progress, journal)
    taken = journal.note(len(opened.plan.layers)) if journal else ()
    return replace(solved, notes=(*why, *taken, *solved.notes))


def solve_paired(
    opened: Opened, recipe: Recipe, progress: Progress, journal: Journal | None, shelf: Shelf | None
) -> Solved:
    """Layer after layer on the quantized network's inputs, here or on a cluster."""
    if recipe.dask:
        return solve_on_cluster(opened, recipe, True, progress, (journal, shelf))
    return march(opened, recipe, progress, journal=journal, shelf=shelf)


def one_network_refusal(opened: Opened) -> str:
    """Why the float network cannot be run segment by segment, as a clause; empty where it can."""
    return uncuttable(cut(opened.plan.prepared.graph, opened.plan.layers))


def inputs_for(opened: Opened, recipe: Recipe) -> tuple[str, tuple[str, ...]]:
    """Whose inputs layers are solved on, ``quantized`` or ``float``, and why, where a user would wonder.

    The baselines are parallel unless asked for otherwise. Made-up inputs do not deserve that weights be bent
    to what comes of them. ComqError where a choice that was asked for cannot be had.
    """
    inputs, why = _inputs_for(opened, recipe)
    _check_inputs(inputs, why, recipe)
    return inputs, why


def _inputs_for(opened: Opened, recipe: Recipe) -> tuple[str, tuple[str, ...]]:
    plain = recipe.solver != "comq" or opened.calibration.synthetic
    if recipe.inputs == "float" or (recipe.inputs == "auto" and plain):
        return "float", ()
    why = refusal(opened.plan.prepared.graph, opened.plan.layers)
    if why and recipe.inputs == "quantized":
        raise ComqError(
            f"layers cannot be solved one after the other: {why}",
            where="--inputs quantized",
            fix="use --inputs float",
        )
    if why:
        return "float", (PARALLEL + why,)
    return "quantized", ()


def _check_inputs(inputs: str, why: tuple[str, ...], recipe: Recipe) -> None:
    if inputs == "float" and recipe.bias in ("position", "block"):
        raise ComqError(
            "this bias is measured layer after layer, and "
            + (why[0] if why else "layers are solved on the float network's inputs"),
            where=f"--bias {recipe.bias}",
            fix="use --bias channel" if why else "use --inputs quantized, or --bias channel",
        )
    if inputs == "float" and recipe.mrecg:
        raise ComqError(
            "pairs of layers are solved together on the quantized network's inputs, not the float one's",
            where="--mrecg",
            fix="leave it out, or give --calibration-data and --inputs quantized",
        )


def put_in_place(
    path: Path, opened: Opened, outcome: Outcome, recipe: Recipe, progress: Progress = silent
) -> tuple[Sequence[Path], Verification]:
    """Write beside `path`, verify, and only then move there; the files that are there now."""
    with temporary_folder(".comq-", path.parent) as scratch:
        draft = scratch / path.name
        written = save(outcome.model, draft, opened.plan.outside is not None, path)
        progress("verify", 0, 1)
        checks, _ = within_memory(opened, recipe, lambda less, how: verify_written(draft, less, outcome, how))
        progress("verify", 1, 1)
        with held_back():  # of two files, both or none
            return move_into_place(written, path.parent), checks


def verify_written(draft: Path, opened: Opened, outcome: Outcome, recipe: Recipe) -> Verification:
    """Check the written bytes; a file that does not load or holds other codes is never put in place."""
    plan_ = opened.plan
    checks = verify(draft, plan_.source, plan_.layers, outcome.solutions, opened.calibration, recipe)
    fatal = [check for check in checks.checks if check.fatal and not check.ok]
    if fatal and opened.calibration.synthetic and fatal[0].name == FLOAT_RUNS:
        raise ComqError(
            f"the float model itself does not run on made-up inputs ({fatal[0].detail})",
            where=describe(plan_.source),
            fix="give --calibration-data",
        )
    if fatal:
        raise ComqError(
            f"the result fails its check '{fatal[0].name}' ({fatal[0].detail}), so it was not written",
            where=describe(plan_.source),
            fix=_remedy(recipe),
        )
    return checks


def _remedy(recipe: Recipe) -> str:
    """What to try where the written file fails a check."""
    other = "try another --target, or exclude the layer named here with --nodes-to-exclude"
    if recipe.activations != "int8" or recipe.reduce_range:
        return other
    return f"use --reduce-range where the processor is an x64 without VNNI; {other}"
