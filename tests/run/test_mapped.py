"""Weights that a session maps or is given compute what weights in its message do, to the last bit."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import model, weight
from large import saved_apart
from onnx import ModelProto, TensorProto

from comq_onnx.errors import ComqError
from comq_onnx.evaluate.room import located_message
from comq_onnx.run.mapped import mapped_values, stub
from comq_onnx.run.session import SessionOptions, open_session

TEXT = "g (float[N,96] x) => (float[N,64] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
X = {"x": weight(5, 96, seed=3)}


def inline() -> ModelProto:
    return model(TEXT, w1=weight(96, 128), w2=weight(128, 64, seed=1))


def external(proto: ModelProto) -> list[TensorProto]:
    return [t for t in proto.graph.initializer if t.data_location == TensorProto.EXTERNAL]


@pytest.mark.parametrize("optimize", [True, False])
def test_mapped_weights_give_the_same_bits(optimize: bool, tmp_path: Path) -> None:
    options = SessionOptions(optimize=optimize, threads=1)
    located = located_message(saved_apart(inline(), tmp_path))
    assert len(external(located)) == 2
    values = mapped_values(located, external(located), {}, "cpu")
    assert values is not None
    assert all(isinstance(value, np.memmap) for value in values.values())
    wanted, found = (open_session(proto, options).run(X)["y"] for proto in (inline(), located))
    np.testing.assert_array_equal(found, wanted)


def test_given_weights_give_the_same_bits() -> None:
    proto = inline()
    given = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(stub(tensor.name, given[tensor.name]))
    wanted = open_session(inline(), SessionOptions(threads=1)).run(X)["y"]
    np.testing.assert_array_equal(open_session(proto, SessionOptions(threads=1), given).run(X)["y"], wanted)


def test_what_cannot_be_mapped_is_read(tmp_path: Path) -> None:
    text = "g (float[N,96] x) => (float[N,128] y) { f = Cast<to=1>(w) y = MatMul(x, f) }"
    proto = model(text, w=weight(96, 128).astype(ml_dtypes.bfloat16))
    located = located_message(saved_apart(proto, tmp_path))
    assert mapped_values(located, external(located), {}, "cpu") is None
    wanted, found = (open_session(one, SessionOptions(threads=1)).run(X)["y"] for one in (proto, located))
    np.testing.assert_array_equal(found, wanted)


def test_a_file_that_became_short_is_told(tmp_path: Path) -> None:
    path = saved_apart(inline(), tmp_path)
    located = located_message(path)
    path.with_name("model.onnx.data").write_bytes(b"short")
    with pytest.raises(ComqError, match="too short"):
        open_session(located)
