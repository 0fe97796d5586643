"""A written file gives the same answers in the other runtimes it is meant for.

What all are measured against is onnxruntime with no optimisation at all: every node as the file has it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.agreement import DEPLOYED_LIMIT, EXACT_LIMIT, Check, Outputs, check_agreement
from comq_onnx.evaluate.engines import engine_checks, engine_of
from comq_onnx.graph.scopes import scopes
from comq_onnx.run.node import NODE, WEB, node_missing, outputs_in_node
from comq_onnx.run.openvino_ import openvino_missing, outputs_in_openvino
from comq_onnx.run.session import SessionOptions, open_session, outputs_on
from comq_onnx.run.tensorrt_ import tensorrt_missing

RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "portable": ("openvino",),
    "openvino": ("openvino",),
    "web": ("web",),
    "tensorrt": ("tensorrt",),
    "ort": (),
}
"""Where the files of a target are looked at, by its name"""
NAMES = {"openvino": "OpenVINO", "node": NODE, "web": WEB, "tensorrt": "TensorRT"}
ROUNDED_LIMIT = 3e-2
"""Deviation where activations are rounded by the file itself: a sum that a runtime adds up in another order
may fall on the other side of a step, and the layers after it see a whole step of difference."""
ROUNDERS = {"QuantizeLinear", "DynamicQuantizeLinear"}
BFLOAT_NOISE = 7e-3
"""Deviation allowed for one product in bfloat16, in which OpenVINO computes where the CPU has it. Times the
root of their number, the sample network in float deviates by 2.7e-3, EfficientNet-Lite0 by 2.5e-3 and rounded
to int4 by 4.8e-3."""
PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "MatMulNBits", "MatMulInteger", "ConvInteger"}

Batches = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Limits:
    """Largest relative deviation at each of the settings."""

    exact: float = EXACT_LIMIT
    deployed: float = DEPLOYED_LIMIT

    def for_file(self, proto: onnx.ModelProto, distance: float = 0.0) -> "Limits":
        """No tighter than a file that rounds activations can keep.

        `distance` is how far such a file is from the float model. The rounding that makes it is the same that
        falls to the other side of a step where sums are added up in another order; half of it may be so.
        """
        if not any(node.op_type in ROUNDERS for scope in scopes(proto.graph) for node in scope.graph.node):
            return self
        rounded = max(ROUNDED_LIMIT, distance / 2)
        return Limits(max(self.exact, rounded), max(self.deployed, rounded))

    def in_bfloat16(self, products: int) -> float:
        """What deployment settings may deviate by where each of the products rounds to bfloat16 as well."""
        return math.hypot(self.deployed, BFLOAT_NOISE * math.sqrt(products))


def parity(
    path: Path,
    batches: Batches,
    runtimes: Sequence[str],
    limits: Limits,
    reference: Outputs | None = None,
) -> tuple[Check, ...]:
    """Run the file at `path` in each of the `runtimes` (keys of `NAMES`) and compare its outputs.

    `reference` is what unoptimised onnxruntime answers to the batches, run here where it is not given. A
    runtime that is not installed is a passed check that says so; one that does not load, run or survive the
    file is a failed one. Nothing is raised for what the file or a runtime does.
    """
    missing = {name: _missing(name) for name in runtimes}
    if reference is None and not all(missing.values()):
        try:
            reference = outputs_on(open_session(path, SessionOptions(optimize=False)), batches)
        except ComqError as error:
            return (Check("runs in onnxruntime", False, str(error)),)
    checks: list[Check] = []
    for name in runtimes:
        if missing[name]:
            checks += not_looked_at([name], missing[name])
        else:
            checks += _CHECKS[name](path, batches, limits, reference or [])
    return tuple(checks)


def not_looked_at(runtimes: Sequence[str], why: str) -> tuple[Check, ...]:
    """A passed check for each of the `runtimes` that says why nothing was run there."""
    return tuple(Check(NAMES[name], True, f"not looked at: {why}") for name in runtimes)


def _missing(runtime: str) -> str:
    if runtime == "openvino":
        return openvino_missing()
    return tensorrt_missing() if runtime == "tensorrt" else node_missing(NAMES[runtime])


def _openvino(path: Path, batches: Batches, limits: Limits, reference: Outputs) -> list[Check]:
    names = ("OpenVINO = onnxruntime, exact", "OpenVINO = onnxruntime, as deployed")
    try:
        exact, deployed = outputs_in_openvino(path, batches, [True, False])
    except ComqError as error:
        return [Check(name, False, str(error)) for name in names]
    loose = limits.in_bfloat16(_products(onnx.load(path, load_external_data=False)))
    pairs = zip(names, (exact, deployed), (limits.exact, loose), strict=True)
    return [_compared(name, reference, found, limit) for name, found, limit in pairs]


def _products(proto: onnx.ModelProto) -> int:
    return sum(node.op_type in PRODUCTS for scope in scopes(proto.graph) for node in scope.graph.node)


def _node(path: Path, batches: Batches, limits: Limits, reference: Outputs) -> list[Check]:
    return [_in_node(NODE, path, batches, reference, limits.deployed)]


def _web(path: Path, batches: Batches, limits: Limits, reference: Outputs) -> list[Check]:
    return [_in_node(WEB, path, batches, reference, limits.deployed)]


def _tensorrt(path: Path, batches: Batches, limits: Limits, reference: Outputs) -> list[Check]:
    """Built wherever its package is; compared only where a GPU ran it."""
    try:
        engine = engine_of(path, batches)
    except ComqError as error:
        return list(not_looked_at(["tensorrt"], str(error).rstrip(".")))
    return engine_checks(engine, reference, limits.deployed)


_CHECKS: Mapping[str, Callable[[Path, Batches, Limits, Outputs], list[Check]]] = {
    "openvino": _openvino,
    "node": _node,
    "web": _web,
    "tensorrt": _tensorrt,
}


def _in_node(package: str, path: Path, batches: Batches, reference: Outputs, limit: float) -> Check:
    """These packages have one setting, the one they are deployed with."""
    name = f"{package} = onnxruntime, as deployed"
    try:
        found = outputs_in_node(package, path, batches)
    except ComqError as error:
        return Check(name, False, str(error))
    return _compared(name, reference, found, limit)


def _compared(name: str, reference: Outputs, found: Outputs | ComqError, limit: float) -> Check:
    if isinstance(found, ComqError):
        return Check(name, False, str(found))
    lost = [key for key in reference[0] if key not in found[0]] if reference else []
    if lost:
        return Check(name, False, f"the runtime gives no output {', '.join(map(repr, lost))}")
    return check_agreement(name, reference, found, limit)
