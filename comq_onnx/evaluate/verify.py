"""Check a quantized model as it lies on the disk: nothing the writer remembers is believed."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.readback import WrittenFile
from comq_onnx.graph.layout import from_rows
from comq_onnx.graph.scopes import scopes
from comq_onnx.grid import dequantize
from comq_onnx.records import Layer, Solution
from comq_onnx.run.data import Calibration
from comq_onnx.run.session import SessionOptions, is_float, open_session, outputs_on
from comq_onnx.run.widen import widen
from comq_onnx.targets import Target
from comq_onnx.targets.blocks import is_right_side

EXACT_LIMIT, HALF_LIMIT, DEPLOYED_LIMIT = 1e-3, 1e-2, 2e-2
"""Relative L2 deviation of the optimised file: in float, in half precision, with int8 activations."""
PRODUCT_NOISE = 1e-2
"""Deviation allowed for one fused product with int8 activations, which adds 0.5 to 0.7 %
(`tools/bench_claims.py`); errors of independent products add in squares."""
FLIPPED_LIMIT = 5e-2
"""Share of entries of an integer output that may differ."""
BATCHES = 4
SMALL_WEIGHT = 2048
"""Bytes of codes below which an unfused DequantizeLinear costs nothing worth telling."""
ONE_MESSAGE = 1_900_000_000
"""Bytes above which onnxruntime cannot write its optimised graph as one message."""

FLOAT_RUNS = "the float model runs"
"""Name of the check that fails where the samples, not the file, are to blame."""

Outputs = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    name: str
    ok: bool
    detail: str
    """What was found, as a sentence"""
    fatal: bool = False
    """Whether the file must not be used if this fails"""


@dataclass(frozen=True)
class Fidelity:
    """How close an output of the written file is to that of the float model on the same samples."""

    output: str
    sqnr_db: float | None
    """``20 log10(||x|| / ||x - y||)`` at exact settings, for floating outputs"""
    agreement: float | None
    """Share of equal entries, for integer outputs; both are None where the shapes differ"""


@dataclass(frozen=True)
class Verification:
    """All checks of one written file, in the order they were made, and its fidelity."""

    checks: tuple[Check, ...]
    fidelity: tuple[Fidelity, ...] = ()

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def verify(
    path: Path,
    reference: onnx.ModelProto | Path,
    layers: Sequence[Layer],
    solutions: Mapping[str, Solution],
    calibration: Calibration,
    target: Target,
) -> Verification:
    """Check the file at `path` against the float model `reference` and the `solutions` it should hold.

    Failures are recorded, never raised: the caller decides. Models in bfloat16, which onnxruntime does not
    run on a CPU, are run in their float32 form, and the check says so.
    """
    checks = [check_format(path)]
    if not checks[0].ok:
        return Verification(tuple(checks))
    proto = onnx.load(path)
    checks += [check_codes(proto, layers, solutions), check_rules(proto, target, layers)]
    wide = any(layer.dtype == "bfloat16" for layer in layers)
    half = any(layer.dtype == "float16" for layer in layers)
    source = widen(proto) if wide else path
    if wide:
        reference = widen(onnx.load(reference) if isinstance(reference, Path) else reference)
    batches = list(islice(calibration.batches(), BATCHES))
    try:
        truth = outputs_on(open_session(reference, SessionOptions()), batches)
    except ComqError as error:
        return Verification((*checks, Check(FLOAT_RUNS, False, str(error), fatal=True)))
    try:
        deployed, fused = run_deployed(source, path, batches)
        checks += [_runs(wide), check_fused(fused, WrittenFile(proto), layers)]
        plain = outputs_on(open_session(source, SessionOptions(optimize=False)), batches)
        exact = outputs_on(open_session(source, SessionOptions()), batches)
    except ComqError as error:
        return Verification((*checks, Check("runs in onnxruntime", False, str(error), fatal=True)))
    limit = HALF_LIMIT if half else EXACT_LIMIT
    checks += [
        replace(check_agreement("optimised = unoptimised, exact", plain, exact, limit), fatal=True),
        check_agreement("optimised = unoptimised, as deployed", plain, deployed, deployed_limit(layers)),
    ]
    return Verification(tuple(checks), fidelity(truth, exact))


def run_deployed(
    source: onnx.ModelProto | Path, path: Path, batches: Sequence[Mapping[str, np.ndarray]]
) -> tuple[Outputs, onnx.ModelProto | None]:
    """Outputs at onnxruntime's default settings, and the graph it made; None where that is too large."""
    with tempfile.TemporaryDirectory(prefix="comq-") as folder:
        optimized = Path(folder) / "optimized.onnx" if bytes_at(path) < ONE_MESSAGE else None
        session = open_session(source, SessionOptions(exact=False, optimized_path=optimized))
        return outputs_on(session, batches), onnx.load(optimized) if optimized else None


def deployed_limit(layers: Sequence[Layer]) -> float:
    """What int8 activations in the fused kernels may add up to, as independent noise of each product."""
    fused = sum(is_right_side(layer.layout) for layer in layers)
    return max(DEPLOYED_LIMIT, PRODUCT_NOISE * math.sqrt(fused))


def bytes_at(path: Path) -> int:
    """Bytes of a model and its external data beside it."""
    return sum(f.stat().st_size for f in (path, path.with_name(f"{path.name}.data")) if f.exists())


def check_format(path: Path) -> Check:
    """The ONNX checker, with shape inference where the file is one message."""
    full = bytes_at(path) < ONE_MESSAGE
    try:
        onnx.checker.check_model(str(path), full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return Check("valid ONNX", False, str(error).strip().splitlines()[0], fatal=True)
    extent = "types and shapes included" if full else "without shape inference"
    return Check("valid ONNX", True, f"the checker accepts it, {extent}", fatal=True)


def check_codes(proto: onnx.ModelProto, layers: Sequence[Layer], solutions: Mapping[str, Solution]) -> Check:
    """Every layer's codes in the file equal the solution's, and stand for the same weights."""
    file, wrong = WrittenFile(proto), []
    for layer in layers:
        solution = solutions[layer.name]
        try:
            read = file.weight(layer)
        except ComqError as error:
            wrong.append(str(error))
            continue
        values = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)
        codes = from_rows(solution.codes, layer.layout)
        if read.codes is None or not np.array_equal(read.codes, codes):
            wrong.append(f"{layer.name} holds other codes")
        elif not np.array_equal(read.values, from_rows(values, layer.layout)):
            wrong.append(f"{layer.name} holds other scales or zero points")
    text = (
        "; ".join(wrong) or f"the file holds the solved codes, scales and zero points of {len(layers)} layers"
    )
    return Check("codes = solution", not wrong, text, fatal=True)


def check_rules(proto: onnx.ModelProto, target: Target, layers: Sequence[Layer]) -> Check:
    """The target's own rules, warnings too, but for those about a DequantizeLinear that was asked for."""
    asked = {layer.name for layer in layers if expected_unfused(layer)}
    found = [f for f in target.lint(proto) if f.severity == "error" or f.node not in asked]
    return Check(f"rules of target {target.name}", not found, "; ".join(map(str, found)) or "none is broken")


def check_fused(optimized: onnx.ModelProto | None, file: WrittenFile, layers: Sequence[Layer]) -> Check:
    """No large DequantizeLinear is left in onnxruntime's optimised graph, except where one was asked for."""
    name = "weights fused"
    if optimized is None:
        return Check(name, True, "not looked at: the optimised graph is too large for one message")
    left = large_dequantize(optimized)
    asked = [(layer, why) for layer in layers if left and (why := expected_unfused(layer))]
    reasons = {file.weight(layer).initializer: why for layer, why in asked}
    bad = [n for n in left if n not in reasons]
    if bad:
        return Check(
            name, False, f"onnxruntime recomputes {len(bad)} weights on every call: {', '.join(bad[:5])}"
        )
    why = "; ".join(sorted({reasons[n] for n in left}))
    return Check(
        name, True, f"{len(left)} kept as DequantizeLinear: {why}" if left else "no weight is recomputed"
    )


def expected_unfused(layer: Layer) -> str:
    """Why a DequantizeLinear of this layer may stay in the optimised graph; empty where it may not."""
    if layer.in_subgraph:
        return "inside a subgraph"
    return "" if is_right_side(layer.layout) else f"--weight-form dq asks for it before a {layer.op}"


def large_dequantize(proto: onnx.ModelProto) -> list[str]:
    """Names of the codes of each DequantizeLinear of a large initializer, subgraphs included."""
    found = []
    for scope in scopes(proto.graph):
        for node in scope.graph.node:
            codes = scope.tensor(node.input[0]) if node.op_type == "DequantizeLinear" else None
            if codes is not None and math.prod(codes.dims) * _bits(codes) > 8 * SMALL_WEIGHT:
                found.append(codes.name)
    return found


def check_agreement(name: str, expected: Outputs, found: Outputs, limit: float) -> Check:
    """The outputs of two ways to run the file deviate by no more than `limit`."""
    worst = {key: deviation(expected, found, key) for key in expected[0]} if expected else {}
    limits = {key: limit if is_float(expected[0][key].dtype) else FLIPPED_LIMIT for key in worst}
    bad = [key for key, value in worst.items() if value > limits[key]]
    text = ", ".join(f"'{key}' deviates by {worst[key]:.2g}" for key in bad)
    largest = max(worst.values(), default=0.0)
    return Check(name, not bad, text or f"largest relative deviation {largest:.2g}, limit {limit:g}")


def deviation(expected: Outputs, found: Outputs, key: str) -> float:
    """Relative L2 distance over all batches, or the share of unequal entries; infinite if shapes differ."""
    signal = noise = 0.0
    for left, right in zip(expected, found, strict=True):
        a, b = np.asarray(left[key]), np.asarray(right[key])
        if a.shape != b.shape:
            return math.inf
        if not is_float(a.dtype):
            signal, noise = signal + a.size, noise + np.count_nonzero(a != b)
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        signal += float(np.sum(a[np.isfinite(a)] ** 2))
        noise += float(np.sum((a[~same] - b[~same]) ** 2))
    if noise == 0:
        return 0.0
    if not math.isfinite(noise) or signal == 0:
        return math.inf
    return math.sqrt(noise / signal) if is_float(expected[0][key].dtype) else noise / signal


def fidelity(truth: Outputs, found: Outputs) -> tuple[Fidelity, ...]:
    """Closeness of each output to the float model's."""
    lines = []
    for key in truth[0] if truth else ():
        distance = deviation(truth, found, key)
        if math.isinf(distance):
            lines.append(Fidelity(key, None, None))
        elif is_float(truth[0][key].dtype):
            lines.append(Fidelity(key, -20 * math.log10(distance) if distance else math.inf, None))
        else:
            lines.append(Fidelity(key, None, 1 - distance))
    return tuple(lines)


def _runs(wide: bool) -> Check:
    how = "in its float32 form: onnxruntime has no bfloat16 kernels for a CPU" if wide else "as it is"
    return Check("runs in onnxruntime", True, how, fatal=True)


def _bits(tensor: onnx.TensorProto) -> int:
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    return int(name.removeprefix("U").removeprefix("INT")) if "INT" in name else 8
