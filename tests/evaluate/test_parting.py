"""Where two graphs part, on networks that were damaged in a known place."""

import math

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx import numpy_helper

from comq_onnx.evaluate.parting import part

TEXT = """g (float[N, 8] x) => (float[N, 8] y) {
    [first] a = MatMul(x, w1) [relu] b = Relu(a)
    [second] c = MatMul(b, w2) [tanh] d = Tanh(c)
    [third] e = MatMul(d, w3) [add] f = Add(e, b) [last] y = MatMul(f, w4)
}"""
WEIGHTS = {f"w{i}": weight(8, 8, seed=i) for i in range(1, 5)}
NAMES = ["a", "b", "c", "d", "e", "f", "y"]


def net(**changed: np.ndarray) -> onnx.ModelProto:
    proto = model(TEXT, **(WEIGHTS | changed))
    for node, name in zip(
        proto.graph.node, ["first", "relu", "second", "tanh", "third", "add", "last"], strict=True
    ):
        node.name = name
    return proto


def batches(count=3):
    return [{"x": np.random.default_rng(i).standard_normal((2, 8)).astype(np.float32)} for i in range(count)]


def shaken(name: str, share: float) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(9).standard_normal((8, 8)) * share / np.sqrt(8)
    return {name: (WEIGHTS[name] + noise).astype(np.float32)}


def run(proto: onnx.ModelProto, name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """A tensor by ONNX's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return ReferenceEvaluator(copy).run([name], feeds)[0]


def decibel(x, y):
    return 10 * np.log10(np.sum(np.square(x, dtype=np.float64)) / np.sum(np.square(np.float64(x) - y)))


def test_equal_graphs_do_not_part():
    found = part(net(), net(), {"x": "x"}, batches(), 20)
    assert (found.first, found.first_unequal, found.losses, found.below) == (None, None, (), 0)
    assert [t.name for t in found.compared] == NAMES
    assert {t.sqnr_db for t in found.compared} == {math.inf}


@pytest.mark.parametrize(
    ("name", "layer", "tensor"), [("w1", "first", "a"), ("w2", "second", "c"), ("w3", "third", "e")]
)
def test_the_damaged_layer_is_found(name, layer, tensor):
    found = part(net(), net(**shaken(name, 0.8)), {"x": "x"}, batches(), 20)
    assert found.first is not None
    assert (found.first.name, found.first.node, found.first.layers) == (tensor, layer, (layer,))
    assert found.first.made_of_db == math.inf
    assert found.first_unequal == found.first
    assert [line.name for line in found.losses] == [tensor]  # nothing else loses anything by itself


def test_the_worst_of_several_is_first_by_its_own_loss_whatever_came_before():
    changed = net(**shaken("w1", 0.3), **shaken("w3", 1.0), **shaken("w4", 0.01))
    found = part(net(), changed, {"x": "x"}, batches(), 20)
    assert [line.name for line in found.losses] == ["e", "a", "y"]


def test_numbers_by_an_evaluator_of_its_own():
    left, right = net(), net(**shaken("w2", 0.5), **shaken("w4", 0.2))
    data = batches()
    found = {
        t.name: t
        for t in part(net(), net(**shaken("w2", 0.5), **shaken("w4", 0.2)), {"x": "x"}, data, 20).compared
    }
    for name in ("c", "d", "f", "y"):
        pairs = [(run(left, name, feeds), run(right, name, feeds)) for feeds in data]
        expected = decibel(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
        assert found[name].sqnr_db == pytest.approx(expected, abs=1e-3)
    before = np.concatenate([run(left, "f", feeds) for feeds in data])
    w4 = numpy_helper.to_array(next(t for t in right.graph.initializer if t.name == "w4"))
    assert found["y"].own_db == pytest.approx(decibel(before @ WEIGHTS["w4"], before @ w4), abs=1e-3)
    assert (found["y"].made_of, found["f"].made_of) == ("f", "e")


def test_names_that_are_not_in_both_are_counted_and_layers_are_kept_in_mind():
    other = model(
        TEXT.replace("b = Relu(a)", "bb = Relu(a)")
        .replace("(b, w2)", "(bb, w2)")
        .replace("Add(e, b)", "Add(e, bb)")
        .replace(" c = ", " cc = ")
        .replace("Tanh(c)", "Tanh(cc)"),
        **(WEIGHTS | shaken("w2", 0.8)),
    )
    found = part(net(), other, {"x": "x"}, batches(), 20)
    assert (found.tensors, found.unmatched) == (7, 2)
    assert [t.name for t in found.compared] == ["a", "d", "e", "f", "y"]
    assert found.first is not None
    assert (found.first.name, found.first.layers, found.first.made_of) == ("d", ("second",), "a")
    assert [line.name for line in found.losses] == ["d"]


def test_no_common_name_shapes_that_differ_and_other_input_names():
    other = model("g (float[N, 8] z) => (float[N, 8] out) { a = Transpose(z) out = Transpose(a) }")
    found = part(net(), other, {"x": "z"}, batches(), 20)
    assert (found.unmatched, found.reshaped, found.compared) == (6, ("a",), ())


def test_half_precision_subgraphs_and_integers():
    text = """g ({t}[N, 8] x) => ({t}[N, 8] y) {{
        a = MatMul(x, w) s = Shape(a) k = Size(s) z = Sub(k, k) c = Cast<to = 9>(z)
        i = If(c) <
            then_branch = t () => ({t}[N, 8] o) {{ o = Neg(a) }},
            else_branch = e () => ({t}[N, 8] p) {{ p = Relu(a) }}
        >
        y = Abs(i)
    }}"""
    w = weight(8, 8)
    left = model(text.format(t="float"), w=w)
    right = model(text.format(t="float16"), w=w.astype(np.float16))
    found = part(left, right, {"x": "x"}, batches(), 20)
    assert [t.name for t in found.compared] == ["a", "i", "y"]
    assert all(50 < t.sqnr_db < 90 for t in found.compared)
    assert found.compared[2].own_db is not None
    assert found.compared[2].made_of == "i"
