"""Two models side by side on the same data: outputs, a score of the user's, layers, size, speed."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnx

from comq_onnx.evaluate.closeness import Classes, Closeness, Measured, closeness, measure
from comq_onnx.evaluate.comparison import Comparison, Latency, ModelFacts, Setting
from comq_onnx.evaluate.heads import classes_of
from comq_onnx.evaluate.job import middle_batch
from comq_onnx.evaluate.pairing import Pairing, Side, pair, renamed, side
from comq_onnx.evaluate.parting import Parting, part
from comq_onnx.evaluate.room import model_bytes
from comq_onnx.graph.external import tensors_of
from comq_onnx.graph.half import holds_half
from comq_onnx.graph.io import default_opset, load, to_proto
from comq_onnx.graph.vocabulary import vocabulary
from comq_onnx.recipe import Recipe
from comq_onnx.run.data import Calibration, open_calibration
from comq_onnx.run.session import Session, SessionOptions, open_session
from comq_onnx.run.timing import take_turns
from comq_onnx.run.user_code import Metric, load_metric
from comq_onnx.run.widen import widen
from comq_onnx.targets import TARGETS

LAYER_SAMPLES = 4
"""Batches on which every tensor of the graph is compared"""
SETTINGS = {"exact": True, "deployed": False}
"""Whether fused kernels compute in float, by name of the setting"""
WIDE = "{side} is run in its float32 form: onnxruntime has no bfloat16 kernels for a CPU"
NO_TENSOR = "it is no tensor, and not compared"
ELSEWHERE = "{side} is made for {target}: what is told here is what onnxruntime makes of it"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CompareOptions:
    """What is compared, and how long it may take."""

    samples: int = 64
    """Samples at most; made-up ones where there are no data"""
    threshold_db: float = 20.0
    """Two tensors have parted where their SQNR is below it"""
    classes: tuple[str, ...] = ()
    """Outputs that are logits; ``("none",)`` for none; empty: those that look so"""
    calibration_shapes: str = ""
    """Of made-up inputs, as `Recipe` has them"""
    preprocess: str = ""
    """How pictures and sounds become inputs, as `Recipe` has it"""
    max_length: int = 0
    """Tokens of a line of text; 0 for what its tokenizer says"""
    layers: bool = True
    latency: bool = True
    threads: int = 0
    """0: all cores"""


@dataclass(frozen=True)
class Runner:
    """A model at one setting, under A's names."""

    session: Session
    inputs: Mapping[str, str]
    """The session's names of inputs, by A's, where they differ"""
    outputs: Mapping[str, str]
    """A's names of outputs, by the session's"""

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self.session.run(renamed(feeds, self.inputs))
        return {self.outputs.get(name, name): value for name, value in found.items()}


@dataclass(frozen=True)
class _Job:
    """What is run, on what, and how."""

    a: Side
    b: Side
    paired: Pairing
    calibration: Calibration
    metric: Metric | None
    options: CompareOptions
    progress: Progress

    def runners(self, exact: bool) -> tuple[Runner, Runner]:
        """A and B at one setting."""
        a, b = (open_session(_form(s), _session_options(s, exact, self.options)) for s in (self.a, self.b))
        theirs = {its: mine for mine, its in self.paired.outputs.items()}
        return Runner(a, {}, {}), Runner(b, self.paired.inputs, theirs)


def compare(
    a: str | Path | onnx.ModelProto,
    b: str | Path | onnx.ModelProto,
    data: Any = None,
    metric: str | Metric | None = None,
    options: CompareOptions | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Comparison:
    """Run two models on the same data in onnxruntime, at exact settings and as deployed.

    Parameters
    ----------
    a, b
        The models; `a` is what `b` is held against.
    data
        As for `quantize`; None for made-up inputs, which tell little.
    metric
        ``module:callable``, or a callable that is given a function from feeds to outputs, under A's names,
        and answers with a number.
    progress
        Told of each step: a stage, and how many of how many units of it are done.

    Raises
    ------
    ComqError
        A file is missing or damaged, does not run, or takes other inputs; the data do not fit.
    """
    chosen = options or CompareOptions()
    left, right = side("A", a), side("B", b)
    paired = pair(left, right)
    score = load_metric(metric) if isinstance(metric, str) else metric
    calibration = _opened(left, paired, data, chosen)
    job = _Job(left, right, paired, calibration, score, chosen, progress)
    return _compared(job, _metric_name(metric))


def _compared(job: _Job, metric: str) -> Comparison:
    """All that running the models tells."""
    settings = _settings(job)
    return Comparison(
        a=_facts(job.a),
        b=_facts(job.b),
        data=job.calibration.description,
        samples=job.calibration.samples,
        synthetic=job.calibration.synthetic,
        metric=metric,
        settings=settings,
        parting=_parted(job) if job.options.layers else None,
        data_notes=job.calibration.notes,
        notes=(*job.paired.notes, *_said_of(job.a), *_said_of(job.b)),
    )


def _opened(a: Side, paired: Pairing, data: Any, options: CompareOptions) -> Calibration:
    """The data, sample by sample where the models take them so."""
    recipe = Recipe(
        calibration_samples=options.samples,
        batch_size=1,
        calibration_shapes=options.calibration_shapes,
        preprocess=options.preprocess,
        max_length=options.max_length,
    )
    metadata = {entry.key: entry.value for entry in a.proto.metadata_props}
    return open_calibration(data, paired.specs, recipe, vocabulary(load(a.source)), metadata)


def _form(given: Side) -> onnx.ModelProto | Path:
    """The model as a CPU can run it."""
    return widen(to_proto(load(given.source))) if _in_bfloat16(given.proto) else given.source


def _in_bfloat16(proto: onnx.ModelProto) -> bool:
    kinds = {tensor.data_type for tensor in tensors_of(proto.graph)}
    ends = (*proto.graph.input, *proto.graph.output)
    return onnx.TensorProto.BFLOAT16 in kinds | {end.type.tensor_type.elem_type for end in ends}


def _said_of(given: Side) -> list[str]:
    """What the user must hear of how a model was run."""
    said = [WIDE.format(side=given.label)] if _in_bfloat16(given.proto) else []
    target = _made_for(given.proto)
    if target and not TARGETS[target].for_onnxruntime:
        said.append(ELSEWHERE.format(side=given.label, target=target))
    return said


def _made_for(proto: onnx.ModelProto) -> str:
    """The target that our own metadata name; empty where there are none."""
    text = next((entry.value for entry in proto.metadata_props if entry.key == "comq.recipe"), "")
    if not text:
        return ""
    try:
        target = json.loads(text).get("target", Recipe().target)
    except (ValueError, AttributeError):
        return ""
    return target if isinstance(target, str) and target in TARGETS else ""


def _session_options(given: Side, exact: bool, options: CompareOptions) -> SessionOptions:
    """Biases that onnxruntime rounds stay float in files that are not for it.

    So they do at exact settings in half precision, where it would lose them.
    """
    target = _made_for(given.proto)
    elsewhere = bool(target) and not TARGETS[target].for_onnxruntime
    keep = elsewhere or (exact and holds_half(given.proto))
    return SessionOptions(exact=exact, float_bias=keep, threads=options.threads)


def _settings(job: _Job) -> dict[str, Setting]:
    """Outputs and scores at each setting, then the times of all four sessions together."""
    runners = {name: job.runners(exact) for name, exact in SETTINGS.items()}
    outputs = {name: _outputs(job, name, *pair) for name, pair in runners.items()}
    scores = {name: _scores(job.metric, *pair) for name, pair in runners.items()}
    times = _latencies(job, runners) if job.options.latency else {}
    return {name: Setting(outputs[name], scores[name], times.get(name)) for name in SETTINGS}


def _outputs(job: _Job, name: str, a: Runner, b: Runner) -> tuple[Closeness, ...]:
    """Every output of both models, over all samples."""
    listed = {spec.name for spec in a.session.outputs if spec.dtype == np.dtype(object)}
    names = [name for name in job.paired.outputs if name not in listed]
    measured: dict[str, list[Measured]] = {output: [] for output in names}
    shapes: dict[str, tuple[int, ...]] = {}
    classes: dict[str, Classes] = {}
    for number, batch in enumerate(job.calibration.batches()):
        job.progress(f"run {name}", number, job.calibration.batch_count)
        mine, its = a(batch), b(batch)
        tensors = {output: np.asarray(mine[output]) for output in names}
        if not shapes:
            shapes = {output: value.shape for output, value in tensors.items()}
            classes = classes_of(job.a.proto, tensors, job.options.classes)
        for output, value in tensors.items():
            pairs = _samples(value, np.asarray(its[output]), job.calibration.entries(batch))
            measured[output] += [measure(x, y, classes.get(output)) for x, y in pairs]
    job.progress(f"run {name}", job.calibration.batch_count, job.calibration.batch_count)
    return tuple(
        Closeness(o, (), identical=False, note=NO_TENSOR)
        if o in listed
        else closeness(o, shapes[o], measured[o], classes.get(o))
        for o in job.paired.outputs
    )


def _samples(x: np.ndarray, y: np.ndarray, entries: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A batch cut into samples, each with a leading axis of 1; as a whole where it has no such axis."""
    if entries > 1 and x.ndim and x.shape[0] == entries == (y.shape or (0,))[0]:
        return [(x[i : i + 1], y[i : i + 1]) for i in range(entries)]
    return [(x, y)]


def _scores(metric: Metric | None, a: Runner, b: Runner) -> tuple[float, float] | None:
    return None if metric is None else (float(metric(a)), float(metric(b)))


def _latencies(job: _Job, runners: Mapping[str, tuple[Runner, Runner]]) -> dict[str, Latency]:
    """The four sessions take turns on one batch, so that what else the machine does meets all alike."""
    batch = middle_batch(job.calibration)
    job.progress("time", 0, 1)
    # One thread is timed by its own time, which other load on the machine hardly changes.
    clock = time.thread_time if job.options.threads == 1 else time.perf_counter
    calls = [partial(runner, batch) for pair in runners.values() for runner in pair]
    spent = take_turns(calls, clock)
    job.progress("time", 1, 1)
    return {name: _latency(spent[2 * number], spent[2 * number + 1]) for number, name in enumerate(runners)}


def _latency(a: list[float], b: list[float]) -> Latency:
    ratios = [its / mine for mine, its in zip(a, b, strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return Latency(median(a), median(b), middle, low, high, len(a))


def _parted(job: _Job) -> Parting:
    """Every tensor that both graphs have, on a few samples."""
    job.progress("layers", 0, 1)
    batches = list(islice(job.calibration.batches(), LAYER_SAMPLES))
    a, b = (to_proto(load(_form(given))) for given in (job.a, job.b))
    found = part(a, b, job.paired.inputs, batches, job.options.threshold_db)
    job.progress("layers", 1, 1)
    return found


def _facts(given: Side) -> ModelFacts:
    return ModelFacts(
        name=given.name,
        bytes=model_bytes(given.source),
        opset=default_opset(given.proto, given.name),
        ir_version=given.proto.ir_version,
        nodes=len(given.proto.graph.node),
    )


def _metric_name(metric: str | Metric | None) -> str:
    if metric is None or isinstance(metric, str):
        return metric or ""
    return getattr(metric, "__name__", type(metric).__name__)
