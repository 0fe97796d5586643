"""The cases of ``onnx.backend.test`` that the onnx package holds whole, and a second form of many of them.

Most node cases feed their weight as an input, so that there is none to quantize. `freeze` gives such a model
the case's own value as a constant, where something is left to feed.
"""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_model_tests

from breadth.outcome import Feed
from comq_onnx.graph.scopes import scopes

ON_DISK = ("simple", "pytorch-converted", "pytorch-operator")
LEFT_OUT = "the models of kind 'real' are downloaded, and the onnx package holds only their addresses"

WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1,),
    "MatMul": (1,),
    "Gemm": (1, 2),
    "Einsum": (1,),
    "Gather": (0,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "ConvInteger": (1, 3),
    "MatMulInteger": (1, 3),
    "QLinearConv": (3, 4, 5),
    "QLinearMatMul": (3, 4, 5),
}
"""Inputs that a model fresh from training holds as constants, by operator"""
LEFT = {"MatMul": (0,)}
"""The same for products whose weight is the left factor"""


@dataclass(frozen=True)
class Case:
    """A model and what it is fed."""

    name: str
    kind: str
    model: onnx.ModelProto
    feeds: tuple[Feed, ...]


def cases() -> Iterator[Case]:
    """All cases that need no download, each followed by its frozen forms."""
    for case in itertools.chain(_node_cases(), *(_stored_cases(kind) for kind in ON_DISK), light_cases()):
        yield case
        for suffix, places in (("frozen", WEIGHTS), ("frozen left", LEFT)):
            frozen = freeze(case, places, suffix)
            if frozen:
                yield frozen


def light_cases() -> Iterator[Case]:
    """Whole networks of opset 9, whose weights ConstantOfShape makes to keep the files small."""
    for path in sorted(Path(DATA_DIR, "light").glob("*.onnx")):
        model = onnx.load(path)
        constants = {tensor.name for tensor in model.graph.initializer}
        rng = np.random.default_rng(0)
        feed = {
            info.name: rng.standard_normal([d.dim_value for d in info.type.tensor_type.shape.dim], np.float32)
            for info in model.graph.input
            if info.name not in constants
        }
        yield Case(path.stem, "light", model, (feed,))


def freeze(case: Case, places: dict[str, tuple[int, ...]], suffix: str) -> Case | None:
    """The case with inputs at `places` made constants; None where there are none, or nothing else is fed."""
    inputs = {info.name for info in case.model.graph.input} - {t.name for t in case.model.graph.initializer}
    read = {
        node.input[index]
        for scope in scopes(case.model.graph)
        for node in scope.graph.node
        for index in (places.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ())
        if index < len(node.input)
    }
    chosen = [name for name in case.feeds[0] if name in read & inputs] if case.feeds else []
    if (
        not chosen
        or set(chosen) >= inputs
        or not all(isinstance(case.feeds[0][n], np.ndarray) for n in chosen)
    ):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for name in chosen:
        model.graph.initializer.append(numpy_helper.from_array(case.feeds[0][name], name))
    left = [info for info in model.graph.input if info.name not in chosen]
    del model.graph.input[:]
    model.graph.input.extend(left)
    fed = {name: value for name, value in case.feeds[0].items() if name not in chosen}
    return Case(f"{case.name} ({suffix})", case.kind, model, (fed,))


def _node_cases() -> Iterator[Case]:
    with warnings.catch_warnings():  # the cases divide by zero on purpose
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    for test in tests:
        names = [info.name for info in test.model.graph.input]
        feeds = tuple(_fed(names, inputs) for inputs, _ in test.data_sets)
        yield Case(test.name, "node", test.model, feeds)


def _fed(names: list[str], inputs: Any) -> dict[str, Any]:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return {name: _plain(value) for name, value in zip(names, values, strict=False)}


def _plain(value: Any) -> Any:
    """A value as onnxruntime takes it: an array, a list of arrays, or None."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _stored_cases(kind: str) -> Iterator[Case]:
    for test in sorted(load_model_tests(kind=kind), key=lambda test: test.name):
        model = onnx.load(Path(test.model_dir, "model.onnx"))
        constants = {tensor.name for tensor in model.graph.initializer}
        infos = [info for info in model.graph.input if info.name not in constants]
        folders = sorted(Path(test.model_dir).glob("test_data_set_*"))
        feeds = [
            {info.name: _read(folder / f"input_{i}.pb", info.type) for i, info in enumerate(infos)}
            for folder in folders
        ]
        yield Case(test.name, kind, model, tuple(feeds))


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    messages = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}
    message = messages.get(kind.WhichOneof("value"), onnx.TensorProto)
    return _plain(message.FromString(path.read_bytes()))
