"""Whatever another program does, we hear of it in one clause and live."""

import json
import sys

import numpy as np
import onnx
import pytest
from graphs import model
from run.foreign import net, save

from comq_onnx.errors import ComqError
from comq_onnx.run.exchange import converse, fitted, read_arrays, read_header, write_arrays


def said(source, folder, timeout=60.0):
    return converse([sys.executable, "-c", source], folder, {"a": 1}, timeout)


def test_the_answer_is_read(tmp_path):
    source = (
        "import sys, pathlib as p; f = p.Path(sys.argv[1]);"
        "(f / 'answer.json').write_text((f / 'request.json').read_text())"
    )
    reply = said(source, tmp_path)
    assert (reply.answer, reply.problem) == ({"a": 1}, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_killed_program(tmp_path):
    reply = said("import os, signal; os.kill(os.getpid(), signal.SIGFPE)", tmp_path)
    assert (reply.answer, reply.problem) == ({}, "its process was killed by SIGFPE")


def test_a_program_that_fails(tmp_path):
    reply = said("import sys; print('one', file=sys.stderr); sys.exit('the last line')", tmp_path)
    assert reply.problem == "its process ended with code 1 (the last line)"


def test_a_program_that_hangs_leaves_what_it_had_answered(tmp_path):
    (tmp_path / "answer.json").write_text(json.dumps({"half": True}))
    reply = said("import time; time.sleep(60)", tmp_path, timeout=0.5)
    assert (reply.answer, reply.problem) == ({"half": True}, "it gave no answer within 0.5 s")


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(ComqError, match="cannot be started"):
        converse([str(tmp_path / "nothing")], tmp_path, {})


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_go_there_and_back(tmp_path, dtype, shape):
    value = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.dtype(dtype))
    records = json.loads(json.dumps(write_arrays(tmp_path, [{"x": value, "y": value.T}])))
    (back,) = read_arrays(tmp_path, records)
    for found, expected in ((back["x"], value), (back["y"], value.T)):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)


def test_an_output_cut_short(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"1234567")
    with pytest.raises(ComqError, match="7 bytes"):
        read_arrays(tmp_path, [{"y": {"file": "a.bin", "dtype": "float32", "shape": [2]}}])


def test_the_header(tmp_path):
    header = read_header(save(net(), tmp_path, external=True))
    assert [(spec.name, spec.shape) for spec in header.inputs] == [("x", (None, 4, 8, 8))]
    assert header.outputs == ("y", "hidden")
    assert header.external == ("model.onnx.data",)


def test_what_has_no_header(tmp_path):
    with pytest.raises(ComqError, match="does not exist"):
        read_header(tmp_path / "nothing.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 99)
    with pytest.raises(ComqError, match="not an ONNX model"):
        read_header(tmp_path / "noise.onnx")


def test_feeds_are_fitted_to_the_inputs(tmp_path):
    onnx.save(model("g (float16[N] x, int64[N] i) => (float16[N] y) { y = Abs(x) }"), tmp_path / "m.onnx")
    header = read_header(tmp_path / "m.onnx")
    made = fitted(header, {"i": np.array([1]), "x": np.array([1.5]), "more": np.zeros(3)}, "m")
    assert {name: value.dtype.name for name, value in made.items()} == {"x": "float16", "i": "int64"}
    with pytest.raises(ComqError, match="no value is fed to 'i'"):
        fitted(header, {"x": np.array([1.5])}, "m")
