"""A model run in parts answers as it does as a whole."""

import numpy as np
import onnx
import pytest
from deep_nets import cnn, deep, samples
from graphs import model, weight

from comq_onnx.errors import ComqError
from comq_onnx.run.parts import outputs_in_parts, parts_of
from comq_onnx.run.session import SessionOptions, open_session, outputs_on

OPTIONS = SessionOptions(threads=1)


def agree(proto: onnx.ModelProto, batches: list[dict[str, np.ndarray]], room: tuple[int, int]) -> None:
    whole = outputs_on(open_session(proto, OPTIONS), batches)
    parts = outputs_in_parts(proto, batches, OPTIONS, room)
    assert len(parts) == len(whole)
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("room", [(0, 1 << 30), (5000, 0), (1 << 30, 1 << 30)])
@pytest.mark.parametrize("build", [deep, cnn])
def test_outputs_are_those_of_the_whole(build, room: tuple[int, int]) -> None:
    proto = build()
    data = samples(proto, 6)["x"]
    agree(proto, [{"x": data[:4]}, {"x": data[4:]}], room)


def test_parts_have_no_more_weights_than_they_may() -> None:
    proto = deep(6, 24)
    sizes = {t.name: 4 * int(np.prod(t.dims)) for t in proto.graph.initializer}
    parts = parts_of(proto.graph, 6000)
    assert len(parts) > 1
    for part in parts:
        assert (
            sum(sizes[n] for n in {name for node in part.nodes for name in node.input} & sizes.keys()) <= 6000
        )
    assert [n.name for part in parts for n in part.nodes] == [n.name for n in proto.graph.node]


def test_what_is_computed_from_constants_is_where_it_is_read() -> None:
    proto = model(
        """g (float[N,8] x) => (float[N,8] y, float[8,8] w) {
        w = Mul(a, b) h = MatMul(x, w) r = Relu(h) y = MatMul(r, w) }""",
        a=weight(8, 8),
        b=weight(8, 8, seed=1),
    )
    for room in (0, 1 << 20):
        agree(proto, [{"x": weight(3, 8, seed=2)}], (room, 1 << 20))


def test_a_sequence_does_not_go_from_part_to_part() -> None:
    proto = model(
        """g (float[N,8] x) => (float[N,8] y) {
        h = MatMul(x, w1) s = SequenceConstruct(h, x) k = MatMul(x, w2) z = SequenceAt(s, zero)
        y = Add(z, k) }""",
        w1=weight(8, 8),
        w2=weight(8, 8, seed=1),
        zero=np.array(0, np.int64),
    )
    with pytest.raises(ComqError, match="SequenceConstruct"):
        parts_of(proto.graph, 0)
    agree(proto, [{"x": weight(3, 8, seed=2)}], (1 << 20, 1 << 20))
