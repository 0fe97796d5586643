"""Graphs that no exporter writes often: sequences, optionals, Scan, and Loop and If inside one another."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from breadth.family import Inputs, vectors

OPSET = 18
TEXTS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "Sequences": (
        """g (float[1, 6, 16] x) => (float[1, 6, 8] y, seq(float[1, 3, 16]) parts) {
          three = Constant<value = int64 {3}>()
          one = Constant<value = int64 {1}>()
          h = MatMul(x, V)
          parts = SplitToSequence<axis = 1>(h, three)
          last = SequenceAt(parts, one)
          turned = SequenceInsert(parts, last)
          short = SequenceErase(turned, one)
          joined = ConcatFromSequence<axis = 1>(short)
          y = MatMul(joined, W)
        }""",
        {"V": (16, 16), "W": (16, 8)},
    ),
    "Optionals": (
        """g (float[1, 6, 16] x) => (float[1, 6, 8] y, bool there) {
          h = MatMul(x, V)
          maybe = Optional(h)
          there = OptionalHasElement(maybe)
          sure = OptionalGetElement(maybe)
          y = MatMul(sure, W)
        }""",
        {"V": (16, 16), "W": (16, 8)},
    ),
    "Scan with weights": (
        """g (float[1, 6, 16] x) => (float[6, 8] y) {
          first = Constant<value = int64[1] {0}>()
          rows = Squeeze(x, first)
          start = MatMul(H, V)
          end, states = Scan<num_scan_inputs = 1, body = step (float[1, 16] state, float[16] row)
              => (float[1, 16] next, float[1, 16] out) {
            zero = Constant<value = int64[1] {0}>()
            wide = Unsqueeze(row, zero)
            a = MatMul(wide, U)
            b = MatMul(state, V)
            sum = Add(a, b)
            next = Tanh(sum)
            out = Identity(next)
          }>(start, rows)
          one = Constant<value = int64[1] {1}>()
          flat = Squeeze(states, one)
          y = MatMul(flat, W)
        }""",
        {"H": (1, 16), "U": (16, 16), "V": (16, 16), "W": (16, 8)},
    ),
    "If inside a Loop": (
        """g (float[1, 6, 16] x) => (float[1, 6, 8] y) {
          rounds = Constant<value = int64 {3}>()
          going = Constant<value = bool {1}>()
          before = MatMul(x, V)
          after = Loop<body = round (int64 i, bool more, float[1, 6, 16] h) => (bool on, float[1, 6, 16] k) {
            on = Identity(more)
            one = Constant<value = int64 {1}>()
            here = Equal(i, one)
            k = If<then_branch = a () => (float[1, 6, 16] p) { s = MatMul(h, U) p = Tanh(s) },
                   else_branch = b () => (float[1, 6, 16] q) { t = MatMul(h, V2) q = Relu(t) }>(here)
          }>(rounds, going, before)
          y = MatMul(after, W)
        }""",
        {"U": (16, 16), "V": (16, 16), "V2": (16, 16), "W": (16, 8)},
    ),
}


@dataclass(frozen=True)
class Text:
    """A graph and a source of samples for it."""

    name: str
    model: onnx.ModelProto
    sample: Callable[[int], Inputs]


def texts() -> Iterator[Text]:
    """Each graph with uniform random weights of variance ``1 / rows``."""
    for name, (text, shapes) in TEXTS.items():
        rng = np.random.default_rng(1)
        graph = onnx.parser.parse_graph(text)
        for weight, shape in shapes.items():
            values = rng.uniform(-1, 1, shape) * math.sqrt(3 / shape[0])
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), weight))
        made = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8
        )
        yield Text(name, made, vectors(6, 16))
