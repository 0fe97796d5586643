"""Models that are timed: real ones of the zoo, a ResNet-18 and a stack of products of random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from zoo.catalogue import ZOO
from zoo.model import Feed, Places, RealModel, UnavailableError

SAMPLES, TOKENS, WIDTH, DEPTH = 8, 128, 4096, 4
RESNET, STACK = "resnet18", "stack"


@dataclass(frozen=True)
class Subject:
    """A float file, samples to quantize it with, and what it is timed on, by name."""

    name: str
    path: Path
    calibration: list[Feed]
    timed: dict[str, Feed]


def subject(name: str, places: Places) -> Subject:
    """UnavailableError where there is no such model here."""
    makers: dict[str, Callable[[Places], Subject]] = {RESNET: resnet18, STACK: stack}
    known = {model.name: model for model in ZOO}
    if name in makers:
        return makers[name](places)
    if name not in known:
        raise SystemExit(f"--models: no model {name}; there are {', '.join([*known, *makers])}")
    return real(known[name], places)


def real(model: RealModel, places: Places) -> Subject:
    """One sample at a time; token sequences of one length."""
    path, task = model.file(places), model.task(places)
    fed = {name: one(value) for name, value in task.calibration[0].items()}
    few = [{name: value[:1] for name, value in feed.items()} for feed in task.calibration[:SAMPLES]]
    return Subject(model.name, path, few, {model.name: fed})


def one(value: np.ndarray) -> np.ndarray:
    """The first sample of a batch; of token ids, as many as `TOKENS`, repeated."""
    if value.dtype == np.int64:
        return np.resize(value[:1], (1, TOKENS))
    return value[:1]


def stack(places: Places) -> Subject:
    """Four square products, as a decoder computes them for one token and for many."""
    path = places.cache / f"{STACK}.onnx"
    if not path.exists():
        rng = np.random.default_rng(0)
        shape = (WIDTH, WIDTH)
        weights = [
            numpy_helper.from_array((rng.standard_normal(shape, dtype=np.float32) / WIDTH**0.5), f"weight{i}")
            for i in range(DEPTH)
        ]
        nodes = [
            helper.make_node("MatMul", [f"x{i}" if i else "x", f"weight{i}"], [f"x{i + 1}"], f"product{i}")
            for i in range(DEPTH)
        ]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", WIDTH])
            for name in ("x", f"x{DEPTH}")
        ]
        graph = helper.make_graph(nodes, STACK, ends[:1], ends[1:], weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(made, path)
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((64, WIDTH), dtype=np.float32)} for _ in range(SAMPLES)]
    x = feeds[0]["x"]
    return Subject(STACK, path, feeds, {f"{STACK}, 1 row": {"x": x[:1]}, f"{STACK}, 64 rows": {"x": x}})


def resnet18(places: Places) -> Subject:
    path = places.cache / f"{RESNET}.onnx"
    if not path.exists():
        try:
            from timing.resnet import export
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed") from None
        path.parent.mkdir(parents=True, exist_ok=True)
        export(path)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 3, 224, 224), dtype=np.float32)} for _ in range(SAMPLES)]
    return Subject(RESNET, path, feeds, {RESNET: feeds[0]})
