"""Two networks side by side: what a segment finds against plain runs of the float model and of a model whose
weights are replaced by hand."""

import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx import TensorProto, numpy_helper
from onnx import helper as oh
from run.streaming import Run, agree_with_plain_runs, gaussian, nothing_is_left

from comq_onnx.errors import NotPairedError
from comq_onnx.run.stream import FLOAT, QUANTIZED

MLP = {"a": weight(8, 12), "b": weight(12, 12, seed=1), "c": weight(12, 8, seed=2), "v": weight(12, seed=3)}
CASES: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]] = {
    "residual": (
        model(
            """g (float[N,8] x) => (float[N,8] y) {
            h = MatMul(x, a) r = Relu(h) k = Gemm(r, b, v) s = Add(k, r) l = MatMul(s, c) y = Add(l, x)
            z = MatMul(y, a) w = MatMul(z, c) }""",
            **MLP,
        ),
        {"x": gaussian(7, 8)},
    ),
    "convolutions": (
        model(
            """g (float[N,4,9,9] x) => (float[A,B,C,D] y) {
            p = Conv<pads=[1,1,1,1]>(x, w1, b1) q = Relu(p) d = Conv<pads=[1,1,1,1], group=8>(q, w2)
            g2 = Conv<group=2, strides=[2,2]>(d, w3) t = ConvTranspose<strides=[2,2]>(g2, w4)
            u = ConvTranspose<group=2>(t, w5, b5) o = Conv(u, w6) y = Conv(o, w7) }""",
            w1=gaussian(8, 4, 3, 3),
            b1=gaussian(8),
            w2=gaussian(8, 1, 3, 3),
            w3=gaussian(6, 4, 3, 3),
            w4=gaussian(6, 4, 2, 2),
            w5=gaussian(4, 3, 3, 3),
            b5=gaussian(6),
            w6=gaussian(5, 6, 1, 1),
            w7=gaussian(2, 5, 1, 1),
        ),
        {"x": gaussian(5, 4, 9, 9)},
    ),
    "convolutions along a line": (
        model(
            """g (float[N,4,20] x) => (float[A,B,C] y) {
            p = Conv(x, w1) q = ConvTranspose<group=2, strides=[2]>(p, w2) y = Conv(q, w3) }""",
            w1=gaussian(6, 4, 3),
            w2=gaussian(6, 2, 4),
            w3=gaussian(2, 4, 5),
        ),
        {"x": gaussian(3, 4, 20)},
    ),
    "weights on the left": (
        model(
            """g (float[N,8,5] x) => (float[N,12,5] y) {
            h = MatMul(at, x) r = Tanh(h) k = MatMul(b, r) y = MatMul(b, k) }""",
            at=weight(8, 12).T.copy(),
            b=weight(12, 12),
        ),
        {"x": gaussian(7, 8, 5)},
    ),
    "batched weights": (
        model(
            """g (float[N,3,5,8] x) => (float[N,3,5,8] y) {
            h = MatMul(x, a) k = MatMul(h, b) y = MatMul(k, c) }""",
            a=weight(3, 8, 6),
            b=weight(3, 6, 6, seed=1),
            c=weight(6, 8, seed=2),
        ),
        {"x": gaussian(7, 3, 5, 8)},
    ),
    "a mask, two inputs": (
        model(
            """g (int64[N,S] ids, int64[N,S] attention_mask) => (float[N,S,8] y) {
            e = Gather(table, ids) q = MatMul(e, a) k = MatMul(e, a2) kt = Transpose<perm=[0,2,1]>(k)
            s = MatMul(q, kt) m = Cast<to=1>(attention_mask) m1 = Sub(m, one) m2 = Mul(m1, big)
            m3 = Unsqueeze(m2, axis) t = Add(s, m3) p = Softmax(t) o = MatMul(p, q) f = MatMul(o, c)
            y = MatMul(f, a3) }""",
            table=weight(11, 8) * 3,
            a=weight(8, 12),
            a2=weight(8, 12, seed=1),
            a3=weight(8, 8, seed=4),
            c=weight(12, 8, seed=2),
            one=np.float32(1),
            big=np.float32(1e4),
            axis=np.array([1]),
        ),
        {
            "ids": np.random.default_rng(0).integers(0, 11, (7, 6)),
            "attention_mask": np.tri(7, 6, 2, np.int64),
        },
    ),
    "float64": (
        model(
            "g (double[N,8] x) => (double[N,8] y) { h = MatMul(x, a) y = MatMul(h, c) z = MatMul(y, a) }",
            **{name: value.astype(np.float64) for name, value in MLP.items()},
        ),
        {"x": gaussian(7, 8).astype(np.float64)},
    ),
    "float16": (
        model(
            "g (float16[N,8] x) => (float16[N,8] y) { h = MatMul(x, a) y = MatMul(h, c) z = MatMul(y, a) }",
            **{name: value.astype(np.float16) for name, value in MLP.items()},
        ),
        {"x": gaussian(7, 8).astype(np.float16)},
    ),
}


@pytest.mark.parametrize("limit", [0, 500, 1 << 30])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_both_networks_are_those_of_a_plain_run(case: str, batch_size: int, limit: int) -> None:
    run = Run(*CASES[case], limit=limit, batch_size=batch_size, quantize_embeddings=True)
    assert run.stream.batches == -(-run.calibration.samples // batch_size)
    agree_with_plain_runs(run)
    nothing_is_left(run)
    assert (run.stream.store.spilled > 0) == (limit < 1 << 20)


def test_lengths_that_change_from_batch_to_batch() -> None:
    proto, _ = CASES["a mask, two inputs"]
    rng = np.random.default_rng(1)
    lengths = (3, 1, 7, 7, 4)
    data = [
        {"ids": rng.integers(0, 11, (2, n)), "attention_mask": np.tri(2, n, n - 2 if n > 1 else 0, np.int64)}
        for n in lengths
    ]
    run = Run(proto, data)
    assert sum(run.stream.entries) == run.calibration.samples
    agree_with_plain_runs(run)
    nothing_is_left(run)


def test_ranks_that_change_from_batch_to_batch() -> None:
    """Squeeze drops the batch axis of the last batch, which has one sample."""
    proto = model(
        """g (float[N,1,8] x) => (float[A] y) {
        h = MatMul(x, a) q = Squeeze(h) k = MatMul(q, b) l = Add(k, q) y = MatMul(l, c) }""",
        **MLP,
    )
    run = Run(proto, {"x": gaussian(7, 1, 8)}, batch_size=3)
    assert [run.seen["l", i, FLOAT].ndim for i in range(3)] == [2, 2, 1]
    agree_with_plain_runs(run)


def test_a_batch_without_tokens() -> None:
    run = Run(
        model("g (float[N,S,8] x) => (float[N,S,8] y) { h = MatMul(x, a) y = MatMul(h, c) }", **MLP),
        [{"x": gaussian(1, n, 8)} for n in (0, 3)],
    )
    agree_with_plain_runs(run)


def with_branches() -> onnx.ModelProto:
    """An If that captures a tensor of the main graph, and holds a layer in each branch."""
    made = model(
        """g (float[N,8] x) => (float[N,8] y) {
        h = MatMul(x, a) s = ReduceSum<keepdims=0>(x) c0 = Greater(s, nil) }""",
        nil=np.float32(0),
        **MLP,
    )

    def branch(name: str, seed: int) -> onnx.GraphProto:
        out = oh.make_tensor_value_info(f"{name}_o", TensorProto.FLOAT, None)
        stored = numpy_helper.from_array(weight(12, 12, seed=seed), f"{name}_w")
        nodes = [
            oh.make_node("MatMul", ["h", f"{name}_w"], [f"{name}_m"], f"{name}_layer"),
            oh.make_node("Add", [f"{name}_m", "h"], [f"{name}_o"]),
        ]
        return oh.make_graph(nodes, name, [], [out], [stored])

    made.graph.node.append(
        oh.make_node("If", ["c0"], ["i"], then_branch=branch("yes", 6), else_branch=branch("no", 7))
    )
    made.graph.node.append(oh.make_node("MatMul", ["i", "c"], ["y"]))
    return made


def test_layers_in_branches_run_with_their_codes() -> None:
    x = gaussian(6, 8)
    assert 0 < (x.sum(axis=1) > 0).sum() < 6, "both branches are taken"
    run = Run(with_branches(), {"x": x})
    assert sum(layer.in_subgraph for layer in run.layers) == 2
    agree_with_plain_runs(run)
    nothing_is_left(run)


def test_text_bools_and_numbers_without_axes_cross_a_cut() -> None:
    proto = model(
        """g (float[N,8] x, string[N,1] t) => (float[N,8] y) {
        m = ReduceMean<keepdims=0>(x) g1 = Greater(x, m) h = MatMul(x, a) k = MatMul(h, c) e = Equal(t, word)
        f = Cast<to=1>(e) w = Where(g1, k, m) z = Add(w, f) y = MatMul(z, a) }""",
        opset=19,
        ir_version=9,
        word=np.array("one", dtype=object),
        **MLP,
    )
    words = np.array([["one"], ["two"], ["three"], ["one"]])
    for limit in (0, 1 << 30):
        agree_with_plain_runs(Run(proto, {"x": gaussian(4, 8), "t": words}, limit=limit))


def test_generators_without_inputs_run_once_for_both() -> None:
    proto = model(
        """g (float[N,8] x) => (float[N,8] y) {
        h = MatMul(x, a) n = RandomNormal<shape=[1, 12]>() r = Add(h, n) k = MatMul(r, b) s = Add(k, n)
        y = MatMul(s, c) }""",
        **MLP,
    )
    run = Run(proto, {"x": gaussian(3, 8)})
    for batch, x in enumerate(run.calibration.batches()):
        noise = run.seen["r", batch, FLOAT] - x["x"] @ MLP["a"]
        first = run.solutions["MatMul_h"]
        h = x["x"] @ (first.codes[0] * first.scale[0]) + first.bias
        assert np.allclose(run.seen["r", batch, QUANTIZED] - h, noise, atol=1e-5)
    kinds = [(len(s.nodes), s.shared) for s in run.stream.segments]
    assert (1, True) in kinds


def test_what_precedes_all_layers_runs_once() -> None:
    proto = model(
        """g (float[N,8] x) => (float[N,8] y) {
        p = Exp(x) q = Neg(p) r = Exp(q) h = MatMul(r, a) s = Relu(h) y = MatMul(s, c) z = Add(y, x) }""",
        **MLP,
    )
    run = Run(proto, {"x": gaussian(5, 8)})
    assert run.stream.node_runs == 5 * (3 + 2 * 2)


def test_a_sequence_between_segments_is_refused() -> None:
    """It comes out of an If, whose outputs the cut does not look at."""
    made = model(
        """g (float[N,8] x) => (float[N,8] y) { h = MatMul(x, a) s = ReduceSum<keepdims=0>(x)
        c0 = Greater(s, nil) }""",
        nil=np.float32(0),
        zero=np.array(0),
        d=weight(12, 8, seed=8),
        **MLP,
    )

    def branch(name: str) -> onnx.GraphProto:
        kind = oh.make_sequence_type_proto(oh.make_tensor_type_proto(TensorProto.FLOAT, None))
        node = oh.make_node("SequenceConstruct", ["h", "h"], [f"{name}_s"])
        return oh.make_graph([node], name, [], [oh.make_value_info(f"{name}_s", kind)])

    made.graph.node.extend(
        [
            oh.make_node("If", ["c0"], ["q"], then_branch=branch("yes"), else_branch=branch("no")),
            oh.make_node("SequenceAt", ["q", "zero"], ["e"]),
            oh.make_node("MatMul", ["e", "c"], ["k"]),
            oh.make_node("ReduceMax", ["k"], ["m"], keepdims=0),
            oh.make_node("Sub", ["m", "m"], ["o"]),
            oh.make_node("Cast", ["o"], ["i"], to=TensorProto.INT64),
            oh.make_node("SequenceAt", ["q", "i"], ["f"]),
            oh.make_node("MatMul", ["f", "d"], ["y"]),
        ]
    )
    with pytest.raises(NotPairedError, match="'q' is a sequence or an optional"):
        Run(made, {"x": gaussian(5, 8)})


def test_samples_are_counted_by_the_inputs_that_hold_them() -> None:
    """A value that serves all samples comes first, and its length is no number of samples."""
    proto = model(
        """g (float[7] p, float[N,7,8] x) => (float[N,7,8] y) {
        q = Unsqueeze(p, last) s = Add(x, q) h = MatMul(s, a) y = MatMul(h, c) }""",
        last=np.array([1]),
        **MLP,
    )
    run = Run(proto, {"p": gaussian(7), "x": gaussian(5, 7, 8)}, batch_size=2)
    assert run.stream.entries == [2, 2, 1]
