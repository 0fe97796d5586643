"""What a finished run tells."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx

from comq_onnx.backends.engine import compiled
from comq_onnx.evaluate.command import versions
from comq_onnx.evaluate.remarks import remarks
from comq_onnx.evaluate.report import Report
from comq_onnx.evaluate.room import model_bytes
from comq_onnx.evaluate.table import binary
from comq_onnx.evaluate.verify import Verification
from comq_onnx.graph.io import load
from comq_onnx.layerwise import Solved
from comq_onnx.planning import Opened
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration
from comq_onnx.smoothing import smooth_notes
from comq_onnx.stats.memory import peak_resident
from comq_onnx.targets import TARGETS
from comq_onnx.version import __version__
from comq_onnx.writing import Outcome

NOT_COMPILED = (
    "numba and SciPy are not both installed: solved in NumPy, which is slow; install the extra cpu."
)
MORE_THAN_ASKED = (
    "That is more than --memory says: the work on one layer or on one segment's samples alone takes it; "
    "--threads 1 solves one layer at a time."
)


def machine_notes(model: onnx.ModelProto, recipe: Recipe) -> tuple[str, ...]:
    """What is so of the file on some machines: a sentence for each of the target's rules that says so."""
    found = [finding for finding in TARGETS[recipe.target].lint(model) if finding.severity == "note"]
    counts = Counter((finding.rule, finding.fix) for finding in found)
    return tuple(f"rule {rule} speaks of {count} layers: {fix}." for (rule, fix), count in counts.items())


def memory_notes(opened: Opened, recipe: Recipe) -> tuple[str, ...]:
    """What the process held at most, where weights stay in their files."""
    peak = peak_resident()
    if opened.plan.outside is None or not peak:
        return ()
    limit = recipe.memory_gib * 2**30
    bound = f" (--memory {binary(limit)})" if limit else ""
    held = (
        f"weights stayed in their files; the process held {binary(peak)} at most{bound}, what is mapped from "
        "files counted."
    )
    return (held, MORE_THAN_ASKED) if 0 < limit < peak else (held,)


def fed_shapes(calibration: Calibration) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of each input's batches."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for batch in calibration.batches():
        for name, values in batch.items():
            shapes.setdefault(name, []).append(values.shape)
    return shapes


def make_report(
    recipe: Recipe,
    opened: Opened,
    made: tuple[Solved, Outcome, Verification],
    files: Sequence[Path],
    seconds: float,
) -> Report:
    """Everything that happened, for the table and for ``--report``."""
    plan_, calibration, (solved, outcome, checks) = opened.plan, opened.calibration, made
    return Report(
        version=__version__,
        recipe=recipe.as_dict(),
        target=recipe.target,
        files=tuple(str(f) for f in files),
        bytes_before=model_bytes(plan_.source),
        bytes_after=sum(f.stat().st_size for f in files),
        opset_before=plan_.opset_before,
        opset_after=load(outcome.model).opset,
        calibration=calibration.description,
        synthetic=calibration.synthetic,
        lines=outcome.lines,
        verification=checks,
        notes=(
            *remarks(outcome.lines, recipe, calibration, checks),
            *smooth_notes(plan_),
            *solved.notes,
            *outcome.notes,
            *machine_notes(outcome.model, recipe),
            *TARGETS[recipe.target].advice(str(files[0]), outcome.model, fed_shapes(calibration)),
            *memory_notes(opened, recipe),
            *([] if compiled() or recipe.device.startswith("cuda") else [NOT_COMPILED]),
        ),
        seconds=seconds,
        activations=outcome.grids,
        spreads=outcome.spreads,
        versions=versions(),
    )
