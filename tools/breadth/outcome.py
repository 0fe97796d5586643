"""One model through load, find, quantize, verify and compare, and how that ended.

Every way to end has a name, and only "defect" is this program's fault: a traceback, a run that does not come
to an end, a written file that fails a check or is too far from the float model, or no answer at all.
"""

import contextlib
import math
import re
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

from comq_onnx import ComqError, Recipe, Report, check, quantize
from comq_onnx.run.widen import widen

Feed = Mapping[str, Any]
Kind = Literal["quantized", "amplified", "nothing", "refused", "float fails", "defect"]

LIMIT = 1e-2
"""Relative distance allowed between the outputs of a float model and of its file with 8-bit weights"""
FLIPS = 5e-2
"""Share of entries of an output of whole numbers that may differ"""
FLOATS: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
}
SECONDS = 600
MORE = 15
"""Shuffled copies of each input that ranges of 8-bit activations are chosen on besides"""
_RULE = re.compile(r"\b[A-Z]{2,3}-[EWN]\d\d\b")
DEPLOYED, INVALID = "as deployed", re.compile("does not accept the float model either")
NOTHING = "no layer can be quantized"


@dataclass(frozen=True)
class Outcome:
    """How one model fared."""

    kind: Kind
    why: str = ""
    """The reason; of a file that was quantized, what its own checks remarked"""
    error: float = 0.0
    """Largest relative distance of an output, or share of flipped whole numbers over `FLIPS` times `LIMIT`"""
    report: Report | None = None


class HangError(Exception):
    """The time for one model is over."""


def try_case(model: onnx.ModelProto, feeds: Sequence[Feed], recipe: Recipe, limit: float = LIMIT) -> Outcome:
    """`try_model` on the only inputs that there are, and on their numbers in another order."""
    given = list(feeds)
    if recipe.activations == "int8":  # what lies outside the range of one sample is cut off
        given += [shuffled(feed, 1000 + seed) for feed in feeds for seed in range(MORE)]
    others = [shuffled(feed, seed) for seed, feed in enumerate(feeds)]
    return try_model(model, given, [*feeds, *others], (recipe, limit))


def try_model(
    model: onnx.ModelProto, given: Sequence[Feed], shown: Sequence[Feed], how: tuple[Recipe, float]
) -> Outcome:
    """Quantize `model` on the batches `given`, and hold the file against the float model on those `shown`.

    `how` is a recipe and the largest relative distance allowed.
    """
    recipe, limit = how
    reference, wide, truth, stopped = model, False, [], ""
    try:
        truth = answers(model.SerializeToString(), shown)
    except Exception as error:  # noqa: BLE001 - whatever onnxruntime raises is a reason
        stopped, reference = one_line(error), widen(model)
    if reference is not model:  # onnxruntime has few kernels for bfloat16 on a CPU
        try:
            truth, wide, stopped = answers(reference.SerializeToString(), shown), True, ""
        except Exception as error:  # noqa: BLE001
            stopped = one_line(error)
    with tempfile.TemporaryDirectory(prefix="comq-") as folder:
        path = Path(folder) / "quantized.onnx"
        try:
            with _within(SECONDS), warnings.catch_warnings():
                warnings.simplefilter("error")
                report = quantize(model, path, list(given), recipe)
        except ComqError as error:
            return _refusal(error, stopped)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            return Outcome("defect", f"{one_line(error)} at {_place(error)}")
        if stopped:
            return Outcome("defect", f"written, though the float model does not run: {stopped}", 0.0, report)
        written = widen(onnx.load(path)).SerializeToString() if wide else str(path)
        # A rule that the float model itself breaks says nothing of what was made of it.
        ruled = recipe.target != "fakequant"
        inherited = {finding.rule for finding in check(model, recipe.target)} if ruled else set()
        return _compared(written, shown, truth, report, (limit, inherited))


def shuffled(feed: Feed, seed: int) -> Feed:
    """Inputs that the file was not fitted to: the floating values of each tensor in another order."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.permuted(value.reshape(-1)).reshape(value.shape) if _floating(value) else value
        for name, value in feed.items()
    }


def answers(model: str | bytes, feeds: Sequence[Feed]) -> list[list[Any]]:
    """Outputs of a model for each feed; fused kernels do not round activations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = {entry.name: entry.type for entry in session.get_inputs()}
    given = [
        {name: _as_typed(value, names[name]) for name, value in feed.items() if name in names}
        for feed in feeds
    ]
    return [session.run(None, feed) for feed in given]


def distance(truth: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> float:
    """Largest ``||a - b|| / ||a||`` of an output over all feeds.

    NaN and infinities must be in the same places. Outputs of whole numbers, text and truth values count by
    the share that differs, scaled so that `FLIPS` is as much as `LIMIT`.
    """
    worst = 0.0
    for left, right in zip(zip(*truth, strict=True), zip(*found, strict=True), strict=True):
        a, b = (np.concatenate([part for one in many for part in _flat(one)]) for many in (left, right))
        worst = max(worst, _distance(a, b) if a.shape == b.shape else math.inf)
    return worst


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _compared(
    written: str | bytes,
    feeds: Sequence[Feed],
    truth: list[list[Any]],
    report: Report,
    limits: tuple[float, set[str]],
) -> Outcome:
    limit, inherited = limits
    try:
        error = distance(truth, answers(written, feeds))
    except Exception as failure:  # noqa: BLE001
        return Outcome("defect", f"the written file does not run: {one_line(failure)}")
    failed = [c for c in report.verification.checks if not c.ok]
    broken = set(_RULE.findall(" ".join(c.detail for c in failed)))
    remarks = "; ".join(f"{c.name}: {c.detail}" for c in failed)
    # Other runtimes round to bfloat16 as deployed: of a dot product of 3 numbers little may be left.
    worse = [c for c in failed if not c.name.endswith(DEPLOYED) and not INVALID.search(c.detail)]
    harmless = not worse or (broken and broken <= inherited)
    if failed and not harmless:
        return Outcome("defect", f"a check of the file fails: {remarks}", error, report)
    if not report.quantized:
        return Outcome("defect", "a file was written in which nothing is quantized", error, report)
    if error > limit:
        return Outcome("defect", f"the outputs differ by {error:.2g}", error, report)
    return Outcome("quantized", remarks, error, report)


def _refusal(error: ComqError, stopped: str) -> Outcome:
    text = str(error)
    if not text.endswith("."):
        return Outcome("defect", f"not one sentence: {text!r}")
    if NOTHING in text:
        return Outcome("nothing", error.what.removeprefix(NOTHING + ": "))
    return Outcome("float fails", stopped) if stopped else Outcome("refused", text)


def _flat(value: Any) -> list[np.ndarray]:
    """An output as flat arrays: a sequence, an optional that is empty, a map, a tensor."""
    if value is None:
        return [np.zeros(0)]
    if isinstance(value, dict):
        return [part for key in sorted(value) for part in _flat(value[key])]
    if isinstance(value, list):
        return [np.array([len(value)], float), *(part for one in value for part in _flat(one))]
    return [np.asarray(value).reshape(-1)]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.dtype.kind not in "fc" and a.dtype.name != "bfloat16":
        return float(np.mean(a != b)) / FLIPS * LIMIT if a.size else 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return math.inf
    lost, size = float(np.linalg.norm((a - b)[finite])), float(np.linalg.norm(a[finite]))
    return lost / size if size else (math.inf if lost else 0.0)


def _as_typed(value: Any, kind: str) -> Any:
    wanted = {
        "tensor(float16)": np.float16,
        "tensor(bfloat16)": ml_dtypes.bfloat16,
        "tensor(float)": np.float32,
    }
    return value.astype(wanted[kind]) if _floating(value) and kind in wanted else value


def _floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")


def _place(error: BaseException) -> str:
    """Where in this program the error came up."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "comq_onnx" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise HangError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
