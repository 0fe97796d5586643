"""A graph cut at its layers: a walk through the segments must find every tensor where it is read."""

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from graphs import model, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, TensorProto

from comq_onnx.graph.cut import Segment, cut, reads_of, refusal
from comq_onnx.graph.find import find_layers
from comq_onnx.graph.io import load, to_proto
from comq_onnx.graph.prepare import prepare
from comq_onnx.recipe import Recipe
from comq_onnx.records import Layer

W = {name: weight(8, 8, seed=i) for i, name in enumerate("ABCDEF")}


def prepared(proto: onnx.ModelProto, **options) -> tuple[GraphProto, list[Layer]]:
    ready = prepare(load(proto), 17)
    layers, _ = find_layers(ready, Recipe(**options))
    return to_proto(ready).graph, layers


def needed(graph: GraphProto, tensors: set[str]) -> set[str]:
    """Outputs of the nodes that these tensors depend on: by going through the nodes backwards."""
    wanted, found = set(tensors), set()
    for node in reversed(graph.node):
        if wanted & set(node.output):
            found |= set(node.output)
            wanted |= reads_of(node)
    return found


def walk(graph: GraphProto, layers: list[Layer]) -> list[Segment]:
    """Go through the segments as a run does, and hold every promise of `Segment` against what happens."""
    segments = cut(graph, layers)
    constants = {tensor.name for tensor in graph.initializer}
    live = {value.name for value in graph.input} - constants
    fed, made, ran, solved = set(live), set(), [], []
    residuals = {tensor for segment in segments for tensor in segment.residuals.values()}
    read = {t for s in segments for n in s.nodes for t in reads_of(n)} | {layer.input for layer in layers}
    read |= residuals
    names = {layer.name for layer in layers}
    dirty: set[str] = set()
    for at, segment in enumerate(segments):
        here: set[str] = set()
        for node in segment.nodes:
            outside = reads_of(node) - constants - here
            assert outside - inner_names(node) <= live, "read before it is made, or after it was dropped"
            assert outside & live <= set(segment.reads)
            # Layers solved on activations are quantized by the time their node is run.
            inside = {n.name for n in all_nodes(node)} & names
            if inside or reads_of(node) & dirty:
                dirty |= set(node.output)
            here |= set(node.output)
            ran += list(node.output)
        assert segment.shared == (not here & dirty)
        assert set(segment.keeps) <= here
        assert set(segment.reads) <= live
        assert set(segment.last_reads) <= set(segment.reads)
        for tensor in segment.residuals.values():
            assert tensor in live | set(segment.keeps)
            assert tensor in dirty
        for layer in segment.layers:
            assert layer.input in live | set(segment.keeps)
            assert not {layer.name} & {n.name for s in segments[: at + 1] for n in s.nodes}
            solved.append(layer.name)
        live -= set(segment.last_reads)
        live |= set(segment.keeps)
        made |= here
        assert set(segment.frees) <= live
        live -= set(segment.frees)
        later = {t for s in segments[at + 1 :] for n in s.nodes for t in reads_of(n)}
        later |= {layer.input for s in segments[at + 1 :] for layer in s.layers}
        later |= {tensor for s in segments[at + 1 :] for tensor in s.residuals.values()}
        assert later & (fed | made) <= live, "dropped although it is read again"
        assert live & read <= later, "kept although nobody reads it again"
    streamed = [layer for layer in layers if not layer.in_subgraph and layer.layout.kind != "gather"]
    assert sorted(solved) == sorted(layer.name for layer in streamed)
    assert len(ran) == len(set(ran)), "run twice"
    assert set(ran) == needed(graph, {layer.input for layer in streamed} | residuals)
    return segments


def all_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    inner = [n for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs) for n in g.node]
    return [node, *(deep for n in inner for deep in all_nodes(n))]


def inner_names(node: onnx.NodeProto) -> set[str]:
    """Tensors made inside the bodies of a node."""
    bodies = [g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
    own = {t for g in bodies for n in g.node for t in n.output} | {v.name for g in bodies for v in g.input}
    own |= {t.name for g in bodies for t in g.initializer}
    return own | {t for g in bodies for n in g.node for t in inner_names(n)}


@st.composite
def dags(draw: st.DrawFn) -> onnx.ModelProto:
    """Random graphs of layers and other nodes over two inputs, several outputs."""
    tensors, lines = ["x", "z"], []
    for i in range(draw(st.integers(1, 14))):
        one, two = (draw(st.sampled_from(tensors)) for _ in range(2))
        op = draw(st.sampled_from(["MatMul", "MatMul", "Left", "Add", "Relu", "Split", "Constant"]))
        if op == "MatMul":
            lines.append(f"t{i} = MatMul({one}, {draw(st.sampled_from('ABCDEF'))})")
        elif op == "Left":
            lines.append(f"t{i} = MatMul({draw(st.sampled_from('ABCDEF'))}, {one})")
        elif op == "Split":
            lines.append(f"t{i}, s{i} = Split<axis=0>({one}, parts)")
            lines.append(f"u{i} = Concat<axis=0>(s{i}, t{i})")
            tensors.append(f"u{i}")
            continue
        elif op == "Constant":
            lines.append(f"k{i} = Shape({one}) t{i} = ConstantOfShape(k{i})")
        else:
            lines.append(f"t{i} = {op}({one}, {two})" if op == "Add" else f"t{i} = {op}({one})")
        tensors.append(f"t{i}")
    outputs = draw(st.lists(st.sampled_from(tensors[2:]), min_size=1, max_size=3, unique=True))
    listed = ", ".join(f"float[8,8] {name}" for name in outputs)
    text = f"g (float[8,8] x, float[8,8] z) => ({listed}) {{ {' '.join(lines)} }}"
    return model(text, parts=np.array([4, 4]), **W)


@settings(max_examples=60, deadline=None)
@given(dags())
def test_random_graphs(proto: onnx.ModelProto) -> None:
    graph, layers = prepared(proto)
    walk(graph, layers)


HAND = {
    "residual": """g (float[N,8] x) => (float[N,8] y) {
        h = MatMul(x, A) r = Relu(h) k = MatMul(r, B) s = Add(k, x) l = MatMul(s, C) t = Add(l, s)
        y = MatMul(t, D) }""",
    "query, key, value": """g (float[N,S,8] x) => (float[N,S,8] y) {
        n = Relu(x) q = MatMul(n, A) k = MatMul(n, B) v = MatMul(n, C)
        kt = Transpose<perm=[0,2,1]>(k) qk = MatMul(q, kt) p = Softmax(qk) o = MatMul(p, v) y = MatMul(o, D)
        }""",
    "two inputs": """g (float[N,8] x, float[N,8] z) => (float[N,8] y) {
        h = MatMul(x, A) k = MatMul(z, B) s = Add(h, k) y = MatMul(s, C) }""",
    "several outputs": """g (float[N,8] x) => (float[N,8] h, float[N,8] r, float[N,8] y) {
        h = MatMul(x, A) r = Relu(h) y = MatMul(r, B) }""",
    "an unused branch": """g (float[N,8] x) => (float[N,8] y) {
        h = MatMul(x, A) y = MatMul(h, B) e = Exp(h) f = Add(e, x) }""",
    "inputs made of constants": """g (float[N,8] x) => (float[N,8] y) {
        i = ConstantOfShape(two) j = Exp(i) k = MatMul(j, A) h = MatMul(x, B) s = Add(h, k) y = MatMul(s, C)
        }""",
    "inputs read late": """g (float[N,8] x, float[N,8] z) => (float[N,8] y) {
        h = MatMul(x, A) k = MatMul(h, B) s = Add(k, z) l = MatMul(s, C) t = Add(l, x) y = MatMul(t, D) }""",
    "a layer twice": """g (float[N,8] x) => (float[N,8] y) {
        h = MatMul(x, A) k = MatMul(h, A) y = MatMul(k, A) }""",
}


@pytest.mark.parametrize("name", HAND)
def test_graphs_written_by_hand(name: str) -> None:
    walk(*prepared(model(HAND[name], two=np.array([2, 8]), **W)))


def test_layers_that_share_an_input_are_solved_together() -> None:
    segments = walk(*prepared(model(HAND["query, key, value"], **W)))
    assert [len(segment.layers) for segment in segments] == [3, 1]
    assert [segment.shared for segment in segments] == [True, False]
    assert segments[0].frees == ()
    assert segments[1].last_reads == ("n",)


def test_what_precedes_all_layers_is_shared() -> None:
    """`z` is not touched by a layer: what is made of it is run once, though a layer's output meets it."""
    text = """g (float[N,8] x, float[N,8] z) => (float[N,8] y) {
        h = MatMul(x, A) e = Exp(z) f = Neg(e) s = Add(h, f) y = MatMul(s, B) }"""
    segments = walk(*prepared(model(text, **W)))
    assert [([n.op_type for n in s.nodes], s.shared) for s in segments] == [
        ([], True),
        (["Exp", "Neg"], True),
        (["MatMul", "Add"], False),
    ]


def test_a_gather_first_counts_as_quantized() -> None:
    text = "g (int64[N,S] ids) => (float[N,S,8] y) { e = Gather(A, ids) h = Relu(e) y = MatMul(h, B) }"
    proto = model(text, **W)
    plain = walk(*prepared(proto))
    assert [segment.shared for segment in plain] == [True]
    small = walk(*prepared(proto, quantize_embeddings=True))
    assert [segment.shared for segment in small] == [False]


def branch(name: str, text: str, **weights: np.ndarray) -> GraphProto:
    body = model(f"{name} () => (float[N,8] {name}_o) {{ {text} }}", **weights).graph
    body.output[0].type.tensor_type.ClearField("shape")
    return body


def with_if() -> onnx.ModelProto:
    """Branches capture `h`, which is made early, and hold a layer."""
    made = model(
        """g (float[N,8] x) => (float[N,8] y) {
        h = MatMul(x, A) k = MatMul(h, B) s = ReduceSum<keepdims=0>(k) c = Greater(s, zero) }""",
        zero=np.float32(0),
        **W,
    )
    then = branch("t", "t_m = MatMul(h, t_w) t_o = Add(t_m, x)", t_w=weight(8, 8, seed=9))
    other = branch("e", "e_o = Add(h, k)")
    made.graph.node.append(oh.make_node("If", ["c"], ["i"], then_branch=then, else_branch=other))
    made.graph.node.append(oh.make_node("MatMul", ["i", "D"], ["y"]))
    return made


def with_loop() -> onnx.ModelProto:
    """A body that captures `h` and `x`."""
    made = model(
        "g (float[N,8] x) => (float[N,8] y) { h = MatMul(x, A) r = Relu(h) k = MatMul(r, B) }",
        times=np.array(3),
        **W,
    )
    body = model(
        """body (int64 i, bool go, float[N,8] v) => (bool on, float[N,8] w)
        { on = Identity(go) u = MatMul(h, l_w) q = Add(u, x) w = Add(q, v) }""",
        l_w=weight(8, 8, seed=9),
    ).graph
    made.graph.node.append(oh.make_node("Loop", ["times", "", "k"], ["f"], body=body))
    made.graph.node.append(oh.make_node("MatMul", ["f", "D"], ["y"]))
    return made


def with_scan() -> onnx.ModelProto:
    made = model("g (float[N,8] x) => (float[N,8] y) { h = MatMul(x, A) k = Exp(h) }", **W)
    body = model(
        "body (float[8] s, float[8] row) => (float[8] s2, float[8] o) { s2 = Add(s, row) o = Add(s2, m) }"
    ).graph
    made.graph.node.append(oh.make_node("ReduceMax", ["h"], ["m0"], axes=[0], keepdims=0))
    made.graph.node.append(oh.make_node("Identity", ["m0"], ["m"]))
    made.graph.node.append(oh.make_node("Scan", ["m0", "k"], ["last", "rows"], body=body, num_scan_inputs=1))
    made.graph.node.append(oh.make_node("MatMul", ["rows", "B"], ["y"]))
    return made


@pytest.mark.parametrize("build", [with_if, with_loop, with_scan])
def test_bodies_read_from_outside(build) -> None:
    walk(*prepared(build()))


def test_a_layer_in_a_branch_is_in_no_segment_but_counts_as_quantized() -> None:
    graph, layers = prepared(with_if())
    inner = [layer.name for layer in layers if layer.in_subgraph]
    assert len(inner) == 1
    segments = walk(graph, layers)
    assert not {layer.name for s in segments for layer in s.layers} & set(inner)


def why(proto: onnx.ModelProto, **options) -> str:
    return refusal(*prepared(proto, **options))


def between(nodes: str, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
    """`nodes` make r of h, which a layer makes and another reads."""
    return model(
        f"g (float[N,8] x) => (float[N,8] y) {{ h = MatMul(x, A) {nodes} y = MatMul(r, B) }}",
        opset=opset,
        half=np.float32(0.5),
        **{**W, **weights},
    )


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_numbers_behind_a_layer(op: str) -> None:
    extra = "q = Sigmoid(h)" if op == "Bernoulli" else "q = Identity(h)"
    assert why(between(f"{extra} n = {op}(q) r = Add(h, n)")) == (
        f"'{op}_n' ({op}) makes other numbers on every run"
    )


def test_random_numbers_that_both_networks_see_alike() -> None:
    assert why(between("n = RandomNormal<shape=[1,8]>() r = Add(h, n)")) == ""
    assert why(between("n = RandomNormalLike(x) r = Add(h, n)")) == ""


def test_random_numbers_that_no_layer_sees() -> None:
    assert why(model("g (float[N,8] x) => (float[N,8] y) { h = MatMul(x, A) y = Bernoulli(h) }", **W)) == ""


def test_random_numbers_in_a_branch() -> None:
    proto = with_if()
    for attribute in proto.graph.node[-2].attribute:
        attribute.g.node.insert(0, oh.make_node("RandomNormal", [], [attribute.name], shape=[8]))
    assert "RandomNormal) makes other numbers on every run" in why(proto)


def test_dropout_only_where_it_trains() -> None:
    assert why(between("r = Dropout(h, half)")) == ""
    assert why(between("r = Dropout(h, half, off)", off=np.array(False))) == ""
    assert "(Dropout) makes other numbers" in why(between("r = Dropout(h, half, on)", on=np.array(True)))
    constant = between("r = Dropout(h, half, t)")
    constant.graph.node.insert(
        0, oh.make_node("Constant", [], ["t"], value=oh.make_tensor("t", TensorProto.BOOL, [], [False]))
    )
    assert why(constant) == ""


def test_sequences_may_not_cross_a_cut() -> None:
    """Taken apart by an index that a later layer makes, or by a constant."""
    text = """q = SequenceConstruct(h, h) u = SequenceAt(q, nil) v = MatMul(u, C) p = SequenceAt(q, {})
        r = Add(p, v)"""
    late = "m = ReduceMax<keepdims=0>(v) s = Sub(m, m) o = Cast<to=7>(s) p ="
    inside = between("q = SequenceConstruct(h, h) u = SequenceAt(q, nil) r = Relu(u)", nil=np.array(0))
    assert why(inside) == ""
    crossing = between(text.format("o").replace("p =", late), nil=np.array(0))
    assert why(crossing) == "'SequenceConstruct_q' (SequenceConstruct) makes something other than a tensor"


def test_rows_selected_by_value() -> None:
    nodes = "c = Greater(h, half) z = NonZero(c) t = Transpose(z) g = GatherND(h, t) r = Expand(g, size)"
    assert why(between(nodes, size=np.array([1, 8]))) == (
        "'NonZero_z' (NonZero) selects by value, which the two networks may do differently"
    )
    # Of the input alone: both networks select the same.
    assert why(between(nodes.replace("(h, half)", "(x, half)"), size=np.array([1, 8]))) == ""
