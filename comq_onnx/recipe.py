"""What the user asked for, as one frozen record. Its fields are the command line's flags."""

import json
import re
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from comq_onnx.budget import parse_drop, parse_size
from comq_onnx.errors import ComqError
from comq_onnx.preprocess import parse
from comq_onnx.rules import BLOCK_SIZES, BLOCKS, Rule, parse_rule

Weights = Literal["int4", "int8", "int6", "int5", "int3", "int2"]
Solver = Literal["comq", "comq-paper", "gptq", "rtn"]
Effort = Literal["normal", "fast", "max"]
Activations = Literal["auto", "none", "int8", "dynamic"]
CalibrationMethod = Literal["mse", "minmax", "percentile", "entropy", "output-error"]
HighPrecision = Literal["auto", "fp32", "fp16"]
TargetName = Literal["portable", "ort", "tensorrt", "openvino", "web", "fakequant"]
BiasMode = Literal["auto", "channel", "none", "position", "block"]
Inputs = Literal["auto", "quantized", "float"]
FirstLast = Literal["same", "int8"]
WeightForm = Literal["auto", "dq"]

__all__ = ["BLOCK_SIZES", "CHOICES", "Recipe"]

CHOICES = {
    "weights": get_args(Weights),
    "activations": get_args(Activations),
    "calibration_method": get_args(CalibrationMethod),
    "high_precision_dtype": get_args(HighPrecision),
    "solver": get_args(Solver),
    "effort": get_args(Effort),
    "bias": get_args(BiasMode),
    "inputs": get_args(Inputs),
    "target": get_args(TargetName),
    "weight_form": get_args(WeightForm),
    "first_last": get_args(FirstLast),
    "block_size": ("auto", *BLOCKS),
}
"""The values of the fields that have a list of them."""
UNTOLD = ("threads", "memory_gib", "dask")
"""Fields that change no file."""


MOST_THREADS = 4096
MOST_SAMPLES = 10_000_000
MOST_GIB = 2.0**30


@dataclass(frozen=True)
class Recipe:
    """How to quantize. The defaults are the tool's advice.

    `effort` is how long ``comq`` searches. `device` is ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; `threads` 0
    is all cores, and any number of them makes the same file.

    `inputs` are those that layers are solved on: ``quantized``, what the layers quantized before them make of
    the samples; ``float``, what the float network makes; ``auto`` is ``quantized`` for ``comq`` on real data.

    `mrecg` pairs of neighbouring layers, those that differ most in capacity, are solved together where that
    lowers the error of their output; it takes layers that are solved on the quantized network's inputs.

    `block_size` is ``"auto"`` (the target's choice), ``"channel"``, ``"tensor"`` or a power of two from
    16 to 256. Patterns are regular expressions searched in node names; one that matches nothing is an error.

    `rules`, each ``REGEX=WIDTH`` or ``REGEX=WIDTH:BLOCK``, go before `weights`, `block_size` and `first_last`
    for the layers whose names they are found in; the last that matches wins. WIDTH is ``float``, ``float16``
    or one of `weights`, BLOCK one of `block_size`. `keep_float` patterns win over rules.

    `target_size` (``3MB``, ``0.2x``), `avg_bits` and `target_latency` (``5ms``, ``0.8x``) are budgets: with
    one, the tool chooses how each layer is stored, and `weights` is what its choice is compared with. So it
    does with `max_drop` (``0.5%``), which asks for the smallest file that is worse than the float model by no
    more: on samples held out, or by `metric`, ``module:callable``.

    `activations` ``"int8"`` stores activations in 8 bits where the target has kernels for it, ``"dynamic"``
    rounds them on the fly, ``"auto"`` is the target's choice; `calibration_method` is how their ranges are
    chosen. `reduce_range` keeps int8 weights to 7 bits, for x64 CPUs without VNNI. `twin_ranges` gives values
    behind Softmax and Gelu two ranges each, where that halves their error. `matmulnbits` writes onnxruntime's
    own low-bit operator. `size_first` quantizes even what then runs slower than in float, in memory too.
    `high_precision_dtype` is the type of what is not quantized.

    `preprocess` is how pictures and sounds become inputs (`preprocess.parse` reads it), `max_length` how many
    tokens of a line of text are fed, 0 for what its tokenizer says.

    `shards` are parts of the samples whose statistics are summed apart and then added, in order: an even
    number, and more of them than 2 change last digits. `dask`, ``tcp://scheduler:8786`` or ``local:4``, sums
    them and solves layers on the workers of a Dask cluster; it changes no file.

    `bias` ``"auto"`` compensates for ``comq`` and leaves the baselines as published; ``"channel"`` always
    does. Besides, ``"position"`` adds a bias for each position of an output, where all samples have the same
    ones, and ``"block"`` one for each channel behind residual Adds; both need quantized `inputs`.
    """

    weights: Weights = "int4"
    activations: Activations = "auto"
    calibration_method: CalibrationMethod = "mse"
    target_size: str = ""
    avg_bits: float = 0.0
    target_latency: str = ""
    max_drop: str = ""
    metric: str = ""
    symmetric: bool = True
    block_size: str = "auto"
    solver: Solver = "comq"
    effort: Effort = "normal"
    bias: BiasMode = "auto"
    inputs: Inputs = "auto"
    mrecg: int = 0
    target: TargetName = "portable"
    high_precision_dtype: HighPrecision = "auto"
    matmulnbits: bool = False
    size_first: bool = False
    reduce_range: bool = False
    twin_ranges: bool = False
    weight_form: WeightForm = "auto"
    first_last: FirstLast = "same"
    quantize_embeddings: bool = False
    nodes_to_quantize: tuple[str, ...] = ()
    nodes_to_exclude: tuple[str, ...] = ()
    op_types_to_quantize: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    calibration_samples: int = 256
    batch_size: int = 1
    calibration_shapes: str = ""
    preprocess: str = ""
    max_length: int = 0
    mask_input: str = ""
    memory_gib: float = 0.0
    shards: int = 2
    dask: str = ""
    device: str = "auto"
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_counts()
        self._check_ranges()
        self._check_biases()
        self._parsed_rules()
        parse(self.preprocess)

    def _check_choices(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ComqError(
                    f"{value!r} is not a value of it",
                    where=_flag(name),
                    fix=f"use one of {', '.join(allowed)}",
                )
        if not re.fullmatch("auto|cpu|cuda(:[0-9]+)?", self.device):
            raise ComqError(
                f"{self.device!r} is no device", where="--device", fix="use auto, cpu, cuda or cuda:1"
            )

    def _check_counts(self) -> None:
        if self.target_size:
            parse_size(self.target_size)
        if self.max_drop:
            parse_drop(self.max_drop)
        if self.max_drop and self.budgeted:
            raise ComqError(
                "it asks for the smallest file, and a budget for the best one of a size",
                where="--max-drop",
                fix="leave one of them out",
            )
        if self.metric and not self.max_drop:
            raise ComqError(
                "nothing is decided by it",
                where="--metric",
                fix="give --max-drop, or use it with comq-onnx compare",
            )
        if not 0 <= self.avg_bits <= 32:
            raise ComqError(
                f"{self.avg_bits:g} bits for each weight are none", where="--avg-bits", fix="use 2 to 32"
            )
        if self.mrecg < 0:
            raise ComqError(
                f"{self.mrecg} is not a count", where="--mrecg", fix="use 1 or more, or 0 for none"
            )
        if self.max_length < 0:
            raise ComqError(
                f"{self.max_length} is not a count",
                where="--max-length",
                fix="use 1 or more, or 0 for its own",
            )
        if not 0 <= self.threads <= MOST_THREADS:
            raise ComqError(
                f"{self.threads} is no count of threads",
                where="--threads",
                fix=f"use 1 to {MOST_THREADS}, or 0 for all cores",
            )
        if self.shards < 2 or self.shards % 2:
            raise ComqError(
                f"{self.shards} parts do not make two halves", where="--shards", fix="use 2, 4, 6 or more"
            )
        if self.dask and not re.fullmatch(r"local:[1-9][0-9]*|[a-z]+://.+", self.dask):
            raise ComqError(
                f"{self.dask!r} is no cluster", where="--dask", fix="use tcp://HOST:PORT or local:4"
            )
        if not 0 <= self.memory_gib <= MOST_GIB:
            raise ComqError(
                f"{self.memory_gib:g} GiB is no size of a memory",
                where="--memory",
                fix="write 2GB, for example",
            )
        if self.seed < 0:
            raise ComqError(f"{self.seed} is below 0", where="--seed", fix="use 0 or more")
        for name in ("calibration_samples", "batch_size"):
            if not 1 <= getattr(self, name) <= MOST_SAMPLES:
                raise ComqError(
                    f"{getattr(self, name)} is not a count of samples",
                    where=_flag(name),
                    fix=f"use 1 to {MOST_SAMPLES:,}",
                )

    def _check_ranges(self) -> None:
        if self.twin_ranges and self.activations in ("none", "dynamic"):
            raise ComqError(
                "only activations stored in 8 bits have ranges",
                where=f"--twin-ranges with --activations {self.activations}",
                fix="use --activations int8",
            )
        if self.twin_ranges and self.high_precision_dtype == "fp16":
            raise ComqError(
                "the two ranges meet at a number that float16 does not hold exactly",
                where="--twin-ranges with --high-precision-dtype fp16",
                fix="leave one of them out",
            )

    def _check_biases(self) -> None:
        if self.mrecg and (self.solver != "comq" or self.inputs == "float"):
            raise ComqError(
                "pairs of layers are solved together by comq alone, on the quantized network's inputs",
                where="--mrecg",
                fix="leave it out, or use --solver comq --inputs quantized",
            )
        if self.mrecg and self.bias not in ("auto", "channel"):
            raise ComqError(
                f"pairs of layers are not solved together with --bias {self.bias}",
                where="--mrecg",
                fix="use --bias channel",
            )
        if self.activations == "int8" and self.bias in ("position", "block"):
            raise ComqError(
                "it would stand between a layer and its 8-bit output, and keep the layer in float",
                where=f"--bias {self.bias} with --activations int8",
                fix="use --bias channel",
            )

    def _parsed_rules(self) -> list[Rule]:
        return [parse_rule(text) for text in self.rules]

    @property
    def bits(self) -> int:
        return int(self.weights.removeprefix("int"))

    @property
    def narrowest(self) -> int:
        """The fewest bits of a code, among `weights` and `rules`."""
        return min([self.bits, *(rule.bits for rule in self._parsed_rules() if rule.bits)])

    @property
    def block_sizes(self) -> tuple[str, ...]:
        """All that a layer's blocks are asked to be: by `block_size`, and by `rules`."""
        return (self.block_size, *(rule.block for rule in self._parsed_rules() if rule.block))

    @property
    def budgeted(self) -> bool:
        """Whether a budget says how many bits layers have, instead of `weights`."""
        return bool(self.target_size or self.avg_bits or self.target_latency)

    @property
    def run_device(self) -> str:
        """What runs the model: ``cpu``, or a GPU where one is asked for."""
        return self.device if self.device.startswith("cuda") else "cpu"

    @property
    def compensate(self) -> bool:
        """Whether a compensating bias is folded into the graph."""
        return self.bias not in ("auto", "none") or (self.bias == "auto" and self.solver == "comq")

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values, fields that hold their default left out."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def as_json(self) -> str:
        """`as_dict` on one line, for a model's metadata; without what changes no file."""
        telling = {k: v for k, v in self.as_dict().items() if k not in UNTOLD}
        return json.dumps(telling, sort_keys=True)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
