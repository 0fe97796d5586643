"""Check a quantized model as it lies on the disk: nothing the writer remembers is believed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from comq_onnx.errors import ComqError, MemoryExhaustedError
from comq_onnx.evaluate.agreement import (
    DEPLOYED_LIMIT,
    EXACT_LIMIT,
    HALF_LIMIT,
    PRODUCT_NOISE,
    Check,
    Outputs,
    check_agreement,
    deviation,
    lies_apart,
)
from comq_onnx.evaluate.parity import ROUNDED_LIMIT, RUNTIMES, Limits, not_looked_at, parity
from comq_onnx.evaluate.readback import WrittenFile
from comq_onnx.evaluate.room import TOLD, located_message, model_bytes, room_of
from comq_onnx.evaluate.runs import ONE_MESSAGE, Ran, bytes_at, run
from comq_onnx.graph.half import holds_half
from comq_onnx.graph.layout import from_rows
from comq_onnx.graph.scopes import scopes
from comq_onnx.graph.tensors import FLOAT_DTYPES
from comq_onnx.grid import dequantize
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer, Solution
from comq_onnx.run.data import Calibration
from comq_onnx.run.session import SessionOptions, is_float
from comq_onnx.run.widen import widen
from comq_onnx.targets import TARGETS, Target
from comq_onnx.targets.blocks import is_right_side

BATCHES = 4
SMALL_WEIGHT = 2048
"""Bytes of codes below which an unfused DequantizeLinear costs nothing worth telling."""
UNSEEN = "not looked at: its float32 form takes more memory than --memory allows"
FLOAT_RUNS = "the float model runs"
"""Name of the check that fails where the samples, not the file, are to blame."""


@dataclass(frozen=True)
class Fidelity:
    """How close an output of the written file is to that of the float model on the same samples."""

    output: str
    """Its name"""
    sqnr_db: float | None
    """``20 log10(||x|| / ||x - y||)`` at exact settings, for floating outputs"""
    agreement: float | None
    """Share of equal entries, for integer outputs; both are None where the shapes differ"""


@dataclass(frozen=True)
class Verification:
    """All checks of one written file, in the order they were made, and its fidelity."""

    checks: tuple[Check, ...]
    """In the order they were made"""
    fidelity: tuple[Fidelity, ...] = ()
    """A line for each output of the model"""

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def verify(
    path: Path,
    reference: onnx.ModelProto | Path,
    layers: Sequence[Layer],
    solutions: Mapping[str, Solution],
    calibration: Calibration,
    recipe: Recipe,
) -> Verification:
    """Check the file at `path` against the float model `reference` and the `solutions` it should hold.

    Failures are recorded, never raised, but MemoryExhaustedError is: the caller decides. Models in bfloat16,
    which onnxruntime does not run on a CPU, are run in their float32 form, and the check says so. What takes
    more memory than `recipe` allows is run part by part.
    """
    target, room = TARGETS[recipe.target], room_of(recipe)
    checks = [check_format(path, reference)]
    if checks[0].fatal and not checks[0].ok:
        return Verification(tuple(checks))
    proto = located_message(path)
    held = check_codes if target.stores_codes else check_values
    checks += [held(proto, layers, solutions), check_rules(proto, recipe, layers)]
    wide = any(layer.dtype == "bfloat16" for layer in layers)
    if wide and not room.holds(model_bytes(reference)):
        return Verification((*checks, Check("runs in onnxruntime", True, UNSEEN)))
    if wide:
        reference = widen(onnx.load(reference) if isinstance(reference, Path) else reference)
    batches = list(islice(calibration.batches(), BATCHES))
    try:
        truth = room.outputs(reference, batches, SessionOptions())
    except MemoryExhaustedError:
        raise
    except ComqError as error:
        return Verification((*checks, Check(FLOAT_RUNS, False, str(error), fatal=True)))
    try:
        ran = run(widen(proto) if wide else path, path, batches, not target.for_onnxruntime, room)
    except MemoryExhaustedError:
        raise
    except ComqError as error:
        return Verification((*checks, Check("runs in onnxruntime", False, str(error), fatal=True)))
    whole = room.holds(bytes_at(path))
    checks.append(_runs(wide, whole))
    if target.for_onnxruntime:
        checks.append(check_fused(ran.optimized, WrittenFile(proto), layers))
    limits = Limits(HALF_LIMIT if holds_half(proto) else EXACT_LIMIT, deployed_limit(layers))
    limits = limits.for_file(proto, distance(truth, ran.plain))
    checks += check_optimized(truth, ran, limits)
    if room.holds(bytes_at(path), TOLD):  # they come on top of this process
        checks += check_elsewhere(path, batches, target, limits, None if wide else ran.plain)
    else:
        checks += not_looked_at(RUNTIMES.get(target.name, ()), "it would take more than --memory")
    return Verification(tuple(checks), fidelity(truth, ran.exact))


def check_optimized(truth: Outputs, ran: Ran, limits: Limits) -> tuple[Check, ...]:
    """What onnxruntime makes of the graph computes what the graph says.

    A file must not be used that fails this at exact settings; but where it rounds activations, only if it
    fails by more than its own distance from the float model's outputs, `truth`, can explain.
    """
    exact = check_agreement("optimised = unoptimised, exact", ran.plain, ran.exact, limits.exact)
    deployed = check_agreement(
        "optimised = unoptimised, as deployed", ran.plain, ran.deployed, limits.deployed
    )
    usable = limits.exact >= ROUNDED_LIMIT and not lies_apart(truth, ran.plain, ran.exact)
    return replace(exact, fatal=exact.ok or not usable), deployed


def distance(truth: Outputs, found: Outputs) -> float:
    """The largest relative deviation of a floating output from the float model's, where shapes are equal."""
    keys = [key for key in truth[0] if is_float(truth[0][key].dtype)] if truth else []
    far = [deviation(truth, found, key) for key in keys]
    return max((value for value in far if math.isfinite(value)), default=0.0)


def check_elsewhere(
    path: Path,
    batches: Sequence[Mapping[str, np.ndarray]],
    target: Target,
    limits: Limits,
    plain: Outputs | None,
) -> tuple[Check, ...]:
    """The target's other runtimes agree with `plain`; None where onnxruntime ran another form of the file."""
    runtimes = RUNTIMES.get(target.name, ())
    if plain is None:
        return not_looked_at(runtimes, "onnxruntime ran the file in its float32 form")
    return parity(path, batches, runtimes, limits, plain)


def deployed_limit(layers: Sequence[Layer]) -> float:
    """What int8 activations in the fused kernels may add up to, as independent noise of each product."""
    fused = sum(is_right_side(layer.layout) for layer in layers)
    return max(DEPLOYED_LIMIT, PRODUCT_NOISE * math.sqrt(fused))


def check_format(path: Path, reference: onnx.ModelProto | Path | None = None) -> Check:
    """The ONNX checker, with shape inference where the file is one message.

    Where it does not take the float model `reference` either, the file is no worse: exporters write
    convolutions of bfloat16 at opsets that do not have them, and GPUs run them.
    """
    said = _rejection(path)
    if said and reference is not None and (before := _rejection(reference)):
        return Check("valid ONNX", False, f"the checker does not accept the float model either: {before}")
    if said:
        return Check("valid ONNX", False, said, fatal=True)
    extent = "types and shapes included" if bytes_at(path) < ONE_MESSAGE else "without shape inference"
    return Check("valid ONNX", True, f"the checker accepts it, {extent}", fatal=True)


def _rejection(model: onnx.ModelProto | Path) -> str:
    """Why the ONNX checker does not accept a model, in its words; empty where it does."""
    full = isinstance(model, onnx.ModelProto) or bytes_at(model) < ONE_MESSAGE
    try:
        onnx.checker.check_model(str(model) if isinstance(model, Path) else model, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).strip().splitlines()[0]
    return ""


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


def check_values(proto: onnx.ModelProto, layers: Sequence[Layer], solutions: Mapping[str, Solution]) -> Check:
    """Every layer's float weight in the file is what the solution's codes stand for, to the last bit."""
    file, wrong = WrittenFile(proto), []
    for layer in layers:
        solution = solutions[layer.name]
        values = dequantize(solution.codes, solution.scale, solution.zero_point, solution.grid)
        stored = values.astype(FLOAT_DTYPES[layer.dtype]).astype(np.float64)
        try:
            read = file.weight(layer)
        except ComqError as error:
            wrong.append(str(error))
            continue
        if read.codes is not None or not np.array_equal(read.values, from_rows(stored, layer.layout)):
            wrong.append(f"{layer.name} holds other weights")
    text = "; ".join(wrong) or f"the file holds the weights that the codes of {len(layers)} layers stand for"
    return Check("weights = solution", not wrong, text, fatal=True)


def check_rules(proto: onnx.ModelProto, recipe: Recipe, layers: Sequence[Layer]) -> Check:
    """The target's own rules, warnings too, but for those about what was asked for.

    Notes, of what is so on some machines, are told elsewhere.
    """
    asked = {layer.name for layer in layers if expected_unfused(layer)}
    broken = [f for f in TARGETS[recipe.target].lint(proto, recipe) if f.severity != "note"]
    found = [f for f in broken if f.severity == "error" or f.node not in asked]
    return Check(
        f"rules of target {recipe.target}", not found, "; ".join(map(str, found)) or "none is broken"
    )


def check_fused(optimized: onnx.ModelProto | None, file: WrittenFile, layers: Sequence[Layer]) -> Check:
    """No large DequantizeLinear is left in onnxruntime's optimised graph, except where one was asked for."""
    name = "weights fused"
    if optimized is None:
        return Check(name, True, "not looked at: the optimised graph takes too much memory")
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
    """Names of the codes of each DequantizeLinear of a large initializer, subgraphs included.

    int32 codes are biases: no kernel that takes a float product adds them as they are (BiasGelu), and a
    vector costs nothing to convert.
    """
    found = []
    for scope in scopes(proto.graph):
        for node in scope.graph.node:
            codes = scope.tensor(node.input[0]) if node.op_type == "DequantizeLinear" else None
            if codes is None or codes.data_type == onnx.TensorProto.INT32:
                continue
            if math.prod(codes.dims) * _bits(codes) > 8 * SMALL_WEIGHT:
                found.append(codes.name)
    return found


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


def _runs(wide: bool, whole: bool) -> Check:
    how = "in its float32 form: onnxruntime has no bfloat16 kernels for a CPU" if wide else "as it is"
    if not whole:
        how = "part by part: as a whole it takes more memory than --memory allows"
    return Check("runs in onnxruntime", True, how, fatal=True)


def _bits(tensor: onnx.TensorProto) -> int:
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    return int(name.removeprefix("U").removeprefix("INT")) if "INT" in name else 8
