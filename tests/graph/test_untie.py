import numpy as np
import pytest
from graph.preparing import check, model, rand
from onnx import numpy_helper

from comq_onnx.graph.find import find_layers
from comq_onnx.recipe import Recipe


def test_each_quantizable_reader_gets_its_own_weight(same):
    proto = model(
        "a = MatMul(x, w) b = MatMul(a, w) c = Add(b, w) y = MatMul(c, w)",
        "float[4, 4] x",
        "float[4, 4] y, float[4, 4] w",
        w=rand(4, 4),
    )
    ready = check(proto, {"x": rand(4, 4)}, same)
    layers, _ = find_layers(ready, Recipe())
    names = [layer.weight for layer in layers]
    assert len({*names, "w"}) == 4
    readers = [
        next(t for t in node.inputs if t.name == name)
        for node, name in zip([n for n in ready.graph.nodes if n.op == "MatMul"], names, strict=True)
    ]
    assert all(len(tensor.outputs) == 1 for tensor in readers)
    assert len({id(tensor._values) for tensor in readers}) == 1  # the values themselves are not copied


IF = """
    y = If (cond) <then_branch = yes () => (float[2, 3] a) {{ a = MatMul(x, {0}) }},
                   else_branch = no () => (float[2, 3] c) {{ {1} c = MatMul(x, {2}) }}>
    z = MatMul(x, w)
"""


@pytest.mark.parametrize("opset", [0, 21])
def test_weights_of_the_outer_graph_and_of_branches(opset, same):
    for text in (
        IF.format("w", "", "w"),
        IF.format("w", "u = Identity(w)", "u"),
        IF.format(
            "w", "u = Constant <value_floats = [1.0, 2.0, 3.0]> () d = MatMul(x, w) e = Add(d, u)", "w"
        ),
    ):
        proto = model(text, "bool cond, float[2, 4] x", "float[2, 3] y, float[2, 3] z", 13, w=rand(4, 3))
        ready = None
        for cond in (True, False):
            ready = check(proto, {"cond": np.array(cond), "x": rand(2, 4)}, same, opset)
        layers, _ = find_layers(ready, Recipe())
        assert [layer.in_subgraph for layer in layers[-3:]] == [True, True, False]
        assert len({layer.weight for layer in layers}) == len(layers)


def test_branches_that_use_one_name_for_two_weights(same):
    proto = model(
        IF.format("w", "", "w"), "bool cond, float[2, 4] x", "float[2, 3] y, float[2, 3] z", w=rand(4, 3)
    )
    for attribute in proto.graph.node[0].attribute:
        attribute.g.node[0].input[1] = "inner"
        attribute.g.initializer.append(numpy_helper.from_array(rand(4, 3), "inner"))
    for cond in (True, False):
        ready = check(proto, {"cond": np.array(cond), "x": rand(2, 4)}, same, 21)
    assert [layer.weight for layer in find_layers(ready, Recipe())[0]] == ["inner", "inner_1", "w"]


@pytest.mark.parametrize("opset", [0, 21])
def test_a_loop_body_and_its_outer_weight(opset, same):
    proto = model(
        """y = Loop (n, keep, x) <body = step (int64 i, bool c, float[2, 4] h) => (bool d, float[2, 4] g)
             { d = Identity(c) k = MatMul(h, w) g = Tanh(k) }>""",
        "int64 n, bool keep, float[2, 4] x",
        "float[2, 4] y",
        13,
        w=rand(4, 4),
    )
    ready = check(proto, {"n": np.array(3), "keep": np.array(True), "x": rand(2, 4)}, same, opset)
    layers, _ = find_layers(ready, Recipe())
    assert [(layer.weight, layer.in_subgraph) for layer in layers] == [("w", True)]
