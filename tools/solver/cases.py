"""Real layers: their weights, and their inputs' statistics on both sides of a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import minilm
import numpy as np
import onnx
import onnxruntime
from zoo import detector, efficientnet
from zoo.model import Feed, Places, RealModel

from comq_onnx.graph.io import load
from comq_onnx.graph.layout import to_rows, weight_values
from comq_onnx.moments import merged
from comq_onnx.parallel import survey
from comq_onnx.planning import open_run
from comq_onnx.recipe import Recipe
from comq_onnx.records import InputStats, Problem
from comq_onnx.solve.pose import Posed
from comq_onnx.solve.scales import spread

MATMULS = (0, 3, 4, 5, 16, 17, 33, 35)
CONV_MODELS = {"efficientnet-lite0": efficientnet.MODEL, "ocr-det": detector.MODEL}
UNSEEN_FEEDS = 12
"""Test feeds whose statistics judge a convolution."""


@dataclass(frozen=True)
class Case:
    """One layer."""

    name: str
    weight: np.ndarray
    """``(G, K, M)`` float64"""
    seen: InputStats
    unseen: InputStats


def held_out_error(case: Case, error: np.ndarray, bias: np.ndarray) -> float:
    """``E ||error^T x - bias||^2 / E ||weight^T x||^2`` on the inputs not seen; `bias` ``(G, M)``."""
    stats = case.unseen
    power = np.vdot(error, stats.gram @ error) + np.vdot(bias, bias)
    power -= 2 * np.vdot(bias, np.einsum("gk,gkm->gm", stats.mean, error))
    return float(power / np.vdot(case.weight, stats.gram @ case.weight))


def deviation(problem: Problem, posed: Posed, p: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``W - W'`` ``(G, K, M)`` of steps and scales in the units and the layout of the posed problem."""
    wide = spread(scale, posed).astype(np.float64)
    return problem.weight - np.ldexp(wide * p, posed.exponent).swapaxes(1, 2)


def minilm_cases(cache: Path, every: bool) -> list[Case]:
    """The MatMuls of the protocol, or all 36."""
    model = onnx.load(minilm.export(cache))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants]
    nodes = nodes if every else [nodes[i] for i in MATMULS]
    names = list(dict.fromkeys(node.input[0] for node in nodes))
    known, held_out = (minilm.feeds(texts) for texts in minilm.split())
    middle = len(known) // 2
    first, second = (_dense_stats(model, names, part) for part in (known[:middle], known[middle:]))
    unseen = _dense_stats(model, names, held_out)
    cases = []
    for node in nodes:
        weight = onnx.numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)[None]
        seen = merged(first[node.input[0]], second[node.input[0]])
        assert seen is not None
        cases.append(Case(node.name, weight, seen, unseen[node.input[0]]))
    return cases


def _dense_stats(model: onnx.ModelProto, names: Sequence[str], batches: list[Feed]) -> dict[str, InputStats]:
    """Mean and Gram of the tensors `names` over all tokens of `batches`, in float64."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(opened.SerializeToString(), providers=["CPUExecutionProvider"])
    sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    count = 0
    for feed in batches:
        count += feed[minilm.INPUTS[0]].size
        for name, value in zip(names, session.run(list(names), feed), strict=True):
            x = value.reshape(-1, value.shape[-1]).astype(np.float64)
            mean, gram = sums.get(name, (0.0, 0.0))
            sums[name] = (mean + x.sum(axis=0), gram + x.T @ x)
    return {name: InputStats(m[None] / count, g[None] / count, count) for name, (m, g) in sums.items()}


def conv_cases(model: RealModel, places: Places, most_rows: int = 2048) -> list[Case]:
    """Every Conv of a model: calibrated on its calibration data, judged on its test data."""
    task = model.task(places)
    recipe = Recipe(calibration_samples=4096)
    seen, unseen = (
        survey(open_run(model.file(places), feeds, recipe), recipe)
        for feeds in (task.calibration, task.test[:UNSEEN_FEEDS])
    )
    plan = seen.opened.plan
    prepared, cases = load(plan.prepared), []
    for layer in plan.layers:
        known, new = seen.collected.stats[layer.name], unseen.collected.stats[layer.name]
        if layer.op != "Conv" or known is None or new is None or layer.layout.rows > most_rows:
            continue
        weight = to_rows(weight_values(prepared, layer), layer.layout).astype(np.float64)
        cases.append(Case(layer.name, weight, known, new))
    return cases
