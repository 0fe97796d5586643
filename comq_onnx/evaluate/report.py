"""What happened, as a record: a line for every weight, totals, and what the user must be told."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from comq_onnx.allocate.allocation import Allocation
from comq_onnx.evaluate.spread import Spread
from comq_onnx.evaluate.verify import Verification
from comq_onnx.records import Layer, LayerReport, Skipped, Solution, ValueGrid
from comq_onnx.targets import Written
from comq_onnx.targets.placement import Placement
from comq_onnx.targets.target import HALVED

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


SCHEMA_VERSION = 1
"""Of what ``--report FILE.json`` writes; it rises where a field is taken away or means something else."""


@dataclass(frozen=True)
class Report:
    """The whole story of one run; `as_dict` is what ``--report`` writes."""

    version: str
    """Of comq-onnx"""
    recipe: Mapping[str, Any]
    """How the model was quantized; fields that hold their default are left out"""
    target: str
    """Where the file will run: the value of ``--target``"""
    files: tuple[str, ...]
    """Paths of what was written: the model, and its external data where there are any"""
    bytes_before: int
    """Of the float model on disk, its external data included"""
    bytes_after: int
    """Of all `files`"""
    opset_before: int
    """Of the float model"""
    opset_after: int
    """Of the written file"""
    calibration: str
    """What was fed, in words"""
    synthetic: bool
    """Whether the samples were made up because no data were given"""
    lines: tuple[LayerReport, ...]
    """A line for every weight: quantized in graph order, then stored as float16, then kept float"""
    verification: Verification
    """What was found about the written bytes"""
    notes: tuple[str, ...]
    """What the user must be told, most important first"""
    seconds: float
    """Of the whole run"""
    activations: Mapping[str, ValueGrid] = field(default_factory=dict)
    """How tensors that are stored in 8 bits are, by name"""
    allocation: Allocation | None = None
    """Why each layer has its width, where a budget chose them"""
    spreads: tuple[Spread, ...] = ()
    """Weights and scales of the layers of the lowest SQNR, worst first"""
    command: str = ""
    """The command line that makes the file again, without folders"""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that the file and its checks depend on, of Python, and the machine's kind"""
    schema_version: int = SCHEMA_VERSION
    """Of this form of report; it rises where a field is taken away or means something else"""

    @property
    def quantized(self) -> tuple[LayerReport, ...]:
        """Weights stored as codes, or as what codes stand for."""
        return tuple(line for line in self.lines if line.form not in ("", HALVED))

    @property
    def halved(self) -> tuple[LayerReport, ...]:
        """Weights that were to be float16 and are."""
        return tuple(line for line in self.lines if line.form == HALVED)

    @property
    def kept(self) -> tuple[LayerReport, ...]:
        """Weights that stay as they were, each with its reason."""
        return tuple(line for line in self.lines if not line.form)

    @property
    def drifting(self) -> bool:
        """Whether some layer was solved on what the quantized network feeds it."""
        return any(line.drift is not None for line in self.lines)

    @property
    def blemishes(self) -> tuple[str, ...]:
        """What ``--strict`` does not forgive: weights kept float, fallbacks, failed checks."""
        kept = [f"{line.name} stays float ({line.reason})" for line in self.kept]
        fallen = [f"{line.name}: {line.reason}" for line in self.quantized if line.reason]
        failed = [
            f"check failed: {check.name} ({check.detail})"
            for check in self.verification.checks
            if not check.ok
        ]
        return (*kept, *fallen, *failed)

    def __repr__(self) -> str:
        """One line; the fields of a run are thousands."""
        from comq_onnx.evaluate.notebook import one_line

        return one_line(self)

    def __str__(self) -> str:
        """What the command prints, without the table of layers."""
        from comq_onnx.evaluate.notebook import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from comq_onnx.evaluate.notebook import as_html

        return as_html(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinite SQNR becomes null."""
        return finite(asdict(self))


def finite(value: Any) -> Any:
    """`value` with every float that JSON cannot hold replaced by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sqnr(signal: float, error: float) -> float | None:
    """``10 log10(signal / error)`` of squared norms, in dB; None without a signal."""
    if signal <= 0:
        return None
    return 10 * math.log10(signal / error) if error > 0 else math.inf


def layer_lines(
    layers: Sequence[Layer],
    solutions: Mapping[str, Solution],
    written: Sequence[Written],
    notes: Mapping[str, str],
    seconds: Mapping[str, float],
    drift: Mapping[str, float],
) -> tuple[LayerReport, ...]:
    """A line for each quantized layer, in graph order; `drift` knows those solved on quantized inputs."""
    stored = {w.layer: w for w in written}
    lines = []
    for layer in layers:
        solution, form = solutions[layer.name], stored[layer.name]
        quality = solution.quality
        said = [notes.get(layer.name, ""), solution.note, form.note]
        lines.append(
            LayerReport(
                name=layer.name,
                op=layer.op,
                weight=layer.weight,
                shape=layer.layout.shape,
                grid=str(solution.grid),
                bytes_before=math.prod(layer.layout.shape) * BYTES[layer.dtype],
                bytes_after=form.bytes_after,
                sqnr_before=sqnr(quality.signal, quality.rtn),
                sqnr_after=sqnr(quality.signal, quality.solved),
                form=form.form,
                reason="; ".join(dict.fromkeys(s for s in said if s)),
                seconds=seconds[layer.name],
                drift=drift.get(layer.name),
                bias_bytes=form.bias_bytes,
                choice=form.choice,
            )
        )
    return tuple(lines)


def with_activations(lines: Sequence[LayerReport], placement: Placement) -> tuple[LayerReport, ...]:
    """Lines that say of each layer whether it computes in 8 bits, where that was asked for."""
    said = {name: f"activations stay float: {why}" for name, why in placement.reasons.items()}
    said |= dict.fromkeys(placement.layers, "8-bit")
    return tuple(replace(line, activations=said.get(line.name, "")) for line in lines)


def halved_lines(layers: Sequence[Layer], written: Sequence[Written]) -> tuple[LayerReport, ...]:
    """A line for each weight that was to be stored as float16; one that could not be is kept float."""
    return tuple(
        LayerReport(
            name=layer.name,
            op=layer.op,
            weight=layer.weight,
            shape=layer.layout.shape,
            grid=form.form or "float",
            bytes_before=math.prod(layer.layout.shape) * BYTES[layer.dtype],
            bytes_after=form.bytes_after,
            form=form.form,
            reason=form.note,
            choice=form.choice,
        )
        for layer, form in zip(layers, written, strict=True)
    )


def skipped_line(skipped: Skipped) -> LayerReport:
    """The line of a weight that stays float."""
    return LayerReport(
        name=skipped.name,
        op=skipped.op,
        weight=skipped.weight,
        shape=skipped.shape,
        grid="float",
        bytes_before=skipped.bytes,
        bytes_after=skipped.bytes,
        reason=skipped.reason,
    )
